package decoder

// ministralArch is Ministral: Mistral's block with windows by layer.
func ministralArch() *Architecture {
	return &Architecture{
		Classes: []string{"MinistralForCausalLM"}, Type: "ministral", GGUF: llamaGGUF("llama", true),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.Rope = c.readRope(f, fullAttention, 10000)
			w := slidingWindow(f, 4096)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

// ministral3Arch is Ministral 3: Llama's block with YaRN, and queries that grow
// with the position.
func ministral3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Ministral3ForCausalLM"}, Type: "ministral3",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 128)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			if f.null("rope_parameters") && f.null("rope_scaling") {
				f.values["rope_parameters"] = []byte(`{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
					"original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0,
					"mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}`)
			}
			c.Rope = c.readRope(f, fullAttention, 10000)
			beta, length := readGrowth(f)
			w := f.int("sliding_window", 0)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				q, k, v := b.qkv(h)
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				if beta != 0 {
					b.do(&growOp{q, beta, length})
				}
				a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index)})
				b.addLinear(stream, a, "self_attn.o_proj", false)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.gatedMLP(stream, h, "mlp.", act)
			}
		},
	}
}

// mistral3Arch is Mistral Small 3 and Ministral 3 for images and text.
func mistral3Arch() *Architecture {
	a := withImages("Mistral3ForConditionalGeneration", "mistral3", "mistral", map[string]map[string]int{
		"mistral": {
			"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
			"num_attention_heads": 32, "max_position_embeddings": 131072,
		},
		"ministral3": {
			"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
			"num_attention_heads": 32, "max_position_embeddings": 262144,
		},
	})
	a.GGUF = llamaGGUF("llama", true)
	a.GGUF.Images = true
	a.GGUF.Check = func(m *Model) error { return m.require(map[string]any{"model_type": "mistral"}) }
	return a
}

// readGrowth reads the growth of queries with the position, which is beside the
// scaling of the rotation.
func readGrowth(f *fields) (beta float64, length int) {
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.object(key); o != nil {
			beta = o.float("llama_4_scaling_beta", beta)
			length = o.int("original_max_position_embeddings", length)
			f.take(o)
		}
	}
	if f.err == nil && beta != 0 && length < 1 {
		f.fail("original_max_position_embeddings", "%d, want a positive number", length)
	}
	return beta, length
}
