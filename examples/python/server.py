"""A gRPC service behind Sallyport. SALLYPORT is the address of the data listener; CACHE is off or feed."""

import asyncio
import json
import os
import signal

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from sallyport import Requirement
from sallyport.aio import AuthInterceptor, Checker, GrpcValidator, identity_of


# Your methods come from a servicer that grpcio-tools makes of your proto. These are by hand.
async def get(order, context):
    return StringValue(value=f"order {order.value} for {identity_of(context).principal}")


async def talk(messages, context):
    async for message in messages:
        yield message


CODING = (StringValue.FromString, StringValue.SerializeToString)
METHODS = {
    "Get": grpc.unary_unary_rpc_method_handler(get, *CODING),
    "Talk": grpc.stream_stream_rpc_method_handler(talk, *CODING),
}


async def main():
    validator = GrpcValidator(os.environ.get("SALLYPORT", "127.0.0.1:7400"), credentials=None)
    async with Checker(validator, cache=os.environ.get("CACHE", "off")) as checker:
        requirements = {"shop.v1.Orders/Get": Requirement(scopes=("orders.read",))}
        server = grpc.aio.server(interceptors=[AuthInterceptor(checker, requirements)])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.v1.Orders", METHODS)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(json.dumps({"port": port}), flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await server.stop(grace=1)


asyncio.run(main())
