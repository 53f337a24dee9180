LoRARequest = object
