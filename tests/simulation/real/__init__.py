"""The simulation's operators, people and judge against a real kube-apiserver, each replica behind its own fault proxy."""
