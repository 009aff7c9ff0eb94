package checkpoint

// formats lists every format; a new one is added here. The list is built on
// each call, so that nothing is registered at start-up.
func formats() []Format {
	return []Format{
		Lowbit{},
		Dense{},
		GPTQ{},
		GPTQ{Version: 1},
		GPTQ{Version: 2},
		CompressedTensors{},
		AWQ{},
		HQQ{},
		GGUF{},
	}
}
