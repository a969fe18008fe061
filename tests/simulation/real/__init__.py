"""The simulation's operators, people and judge against a real kube-apiserver, each replica behind a fault proxy of its own."""
