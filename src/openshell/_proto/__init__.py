"""Code generated from /proto: messages (`*_pb2`) and services (`*_pb2_grpc`). Never edited by hand.

`make protos` writes every other file here and a test compares them with a fresh run. Messages do not
import grpc; only the service modules do. This file stays empty so that a program pays for no more
than the modules it names.
"""
