"""A protoc plugin: the REST bindings of the protos as one OpenAPI 3.1 document.

google.api.http says where a call is found, the messages what goes in and out, their
comments what it means, and the options of sandbox/rpc/v1/rest.proto the limits, examples
and errors. Bodies of raw bytes (HttpBody) are described in free_json.py.
"""
