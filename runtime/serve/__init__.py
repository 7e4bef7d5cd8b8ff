"""`skingpt serve`: the HTTP server of one bundle, for programs on the same machine.

The server process parses HTTP and JSON. It loads no model and no image decoder. It starts two kinds of worker
processes: one decodes photos, the other holds the model. Each can die without ending the server.
"""
