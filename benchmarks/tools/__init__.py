"""Commands for developers: peak memory of a command, comparing the results of two devices, a run on a GPU machine."""
