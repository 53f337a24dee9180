"""llama.cpp's server with one model: `python llama_server.py MODEL.gguf` says where it answers, until it is stopped."""

import sys

import xllamacpp

options = xllamacpp.CommonParams()
options.model.path = sys.argv[1]
options.n_ctx, options.n_parallel = 512, 1
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(options)
print("serves", server.listening_address, flush=True)
sys.stdin.read()  # until the test that started it ends
