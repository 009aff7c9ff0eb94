package formattest

// ModelConfig is a config.json with keys in an order of its own.
const ModelConfig = `{
  "architectures": ["LlamaForCausalLM"],
  "rms_norm_eps": 1e-05,
  "hidden_size": 64,
  "rope_theta": 10000.0,
  "torch_dtype": "bfloat16",
  "vocab_size": 20
}`
