package decoder

import "math"

// gemma3Arch is the text model of Gemma 3 (arXiv 2503.19786): Gemma 2's block
// with norms of q and k instead of soft caps, five layers with a window for each
// with full attention, and a rotation for either.
func gemma3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Gemma3ForCausalLM"}, Type: "gemma3_text", GGUF: gemma3GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readGemma(f, 4)
			c.QKNorm = true
			c.head.cap = f.float("final_logit_softcapping", 0)
			pattern := f.size("sliding_window_pattern", f.size("_sliding_window_pattern", 6))
			c.setWindows(f, c.layerTypes(f, slidingBut(pattern)), slidingWindow(f, 4096))
			c.Rope = c.layerRope(f, 1e6)
			local := c.localRope(f)
			f.noteLocal(local)
			scale := 1 / math.Sqrt(f.float("query_pre_attn_scalar", 256))
			cap := f.float("attn_logit_softcapping", 0)
			act := readActivation(f, "hidden_activation", "gelu_pytorch_tanh")
			return func(b *builder) {
				rope := c.Rope
				if c.Window(b.p.Index) > 0 {
					rope = local
				}
				b.gemma2Block(rope, scale, cap, act)
			}
		},
	}
}

// gemma3ImageArch is Gemma 3 for images and text, whose logits transformers never
// caps.
func gemma3ImageArch() *Architecture {
	a := withImages("Gemma3ForConditionalGeneration", "gemma3", "gemma3_text", map[string]map[string]int{
		"gemma3_text": {
			"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
			"num_attention_heads": 8, "max_position_embeddings": 131072,
		},
	})
	a.GGUF = gemma3GGUF()
	a.GGUF.Images = true
	read := a.read
	a.read = func(f *fields, c *Config) func(*builder) {
		block := read(f, c)
		c.head.cap = 0
		f.note("final_logit_softcapping", 0.0)
		return block
	}
	return a
}

// localRope is the rotation of layers with a window: a base of its own, no
// scaling.
func (c *Config) localRope(f *fields) *Rope {
	if p := f.object("rope_parameters"); p != nil && !p.null(slidingAttention) {
		return c.readRope(f, slidingAttention, 10000)
	}
	return &Rope{Theta: f.float("rope_local_base_freq", 10000), Dim: c.HeadDim}
}

// gemma3GGUF: the engine scales the rotations of full attention only, and has no
// soft caps where there are windows.
func gemma3GGUF() *GGUF {
	return &GGUF{
		Name: "gemma3", EmbeddingHead: true, Period: 6, HeadWidth: "query_pre_attn_scalar", Largest: 62,
		Activation: geluActivation("hidden_activation"),
		Keys: []GGUFKey{
			{"attention.sliding_window", "sliding_window"}, {"rope.freq_base_swa", "rope_local_base_freq"},
		},
		Block: gemma2Names(),
		Check: func(m *Model) error {
			err := m.require(map[string]any{
				"final_logit_softcapping": 0.0, "attn_logit_softcapping": 0.0, "rope scaling of windows": "",
			})
			if err != nil {
				return err
			}
			return m.requireGemma()
		},
	}
}

// noteLocal records the rotation of layers with a window.
func (f *fields) noteLocal(r *Rope) {
	if r != nil {
		f.note("rope_local_base_freq", r.Theta)
		f.note("rope scaling of windows", r.Scaling.Type)
	}
}
