"""A real three-node Kubernetes on one Linux machine without a container engine, and single servers of it for tests."""
