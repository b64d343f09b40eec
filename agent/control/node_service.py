"""`NodeService`: what the agent says of itself."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from agent.control.contract import Node
from agent.control.v1 import node_pb2 as pb
from agent.control.v1.node_pb2_grpc import NodeServiceServicer


class NodeServicer(NodeServiceServicer):
    """For one agent."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def GetNode(self, request: pb.GetNodeRequest, context: object) -> pb.GetNodeResponse:
        """As it is now."""
        state = self._node.state()
        started = Timestamp()
        started.FromNanoseconds(state.started_ns)
        node = pb.Node(
            name=state.name,
            version=state.version,
            namespace=state.namespace,
            start_time=started,
            ready=not state.not_ready,
            not_ready_reason=state.not_ready,
            moves_pod_volumes=state.moves_pod_volumes,
            moves_snapshots=state.moves_snapshots,
            running_jobs=state.running,
            paused_jobs=state.paused,
            waiting_jobs=state.waiting,
            concurrency=state.concurrency,
            bytes_done=state.bytes_done,
        )
        return pb.GetNodeResponse(node=node)
