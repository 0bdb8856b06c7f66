"""A Ray cluster of two nodes on this machine: prints its address, kills the second node at the first line of input.

It ends with its input.
"""

import os
import sys

os.environ["RAY_AUTH_MODE"] = "disabled"  # it is gone in a minute

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
if sys.stdin.readline():
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
sys.stdin.read()
cluster.shutdown()
