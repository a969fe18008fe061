"""The custom resources as models, and the documents that operator and agents exchange.

Importing this package loads no model: the agent needs only `yoban.model.instance` and `yoban.model.control`, which cost
little, the operator the pydantic models too.
"""
