"""Takes the measurements. What is compared runs in processes of its own."""
