"""Asks the service for an order: ``python3 client.py PORT FILE``, with a file that holds a token string."""

import sys
from pathlib import Path

import grpc
from google.protobuf.wrappers_pb2 import StringValue

port, file = sys.argv[1:]
metadata = [("authorization", f"Bearer {Path(file).read_text().strip()}")]
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    get = channel.unary_unary("/shop.v1.Orders/Get", StringValue.SerializeToString, StringValue.FromString)
    try:
        print(get(StringValue(value="7"), metadata=metadata, timeout=5).value)
    except grpc.RpcError as error:
        print(error.code().name, dict(error.trailing_metadata())["sallyport-verdict"])
