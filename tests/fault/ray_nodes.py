"""A Ray cluster in a process of its own, run as a script: python ray_nodes.py PORT FOLDER NODES

It obeys lines on stdin: "add" makes a node, "remove N" kills one. After each, and at first, it answers on stdout with a line of JSON:
{"address": HOST:PORT, "head": PID of its GCS, "raylets": {"0": PID, ...}}. When stdin ends everything is removed.
"""

from __future__ import annotations

import json
import os
import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


def main(port: int, folder: str, count: int) -> None:
    # Cluster notes its address in Ray's own directory, /tmp/ray, and does not make it: only a machine on which Ray ran before has it.
    os.environ["RAY_TMPDIR"] = folder
    os.makedirs(os.path.join(folder, "ray"), exist_ok=True)
    head = {**NODE, "gcs_server_port": port, "temp_dir": folder, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {0: cluster.head_node} | {number: cluster.add_node(**NODE) for number in range(1, count)}
    answer(cluster, nodes)
    for line in sys.stdin:
        verb, *numbers = line.split()
        if verb == "add":
            nodes[max(nodes) + 1] = cluster.add_node(**NODE)
        elif verb == "remove":
            cluster.remove_node(nodes.pop(int(numbers[0])), allow_graceful=False)
        answer(cluster, nodes)
    cluster.shutdown()


def answer(cluster, nodes) -> None:
    head = cluster.head_node.all_processes["gcs_server"][0].process.pid
    raylets = {number: node.all_processes["raylet"][0].process.pid for number, node in nodes.items()}
    print(json.dumps({"address": cluster.address, "head": head, "raylets": raylets}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
