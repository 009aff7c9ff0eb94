package decoder

// exaone4Arch is EXAONE 4 (arXiv 2507.11407): norms after attention and MLP
// instead of before, norms of q and k, and in models with windows rotations only
// in the layers that have one.
func exaone4Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Exaone4ForCausalLM"}, Type: "exaone4", GGUF: exaone4GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 32, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKNorm = true
			c.Rope = c.readRope(f, fullAttention, 10000)
			w := slidingWindow(f, 4096)
			missing := everyLayer(0, 0)
			if w > 0 {
				missing = exaonePattern(f, c.Layers)
			}
			c.setWindows(f, c.layerTypes(f, missing), w)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				rope := c.Rope
				if w > 0 && c.Window(b.p.Index) == 0 {
					rope = nil
				}
				b.exaone4Block(rope, act)
			}
		},
	}
}

// exaonePattern reads which layers have a window: all but each n-th, or those
// with an L in letters that repeat, but for the last layer.
func exaonePattern(f *fields, layers int) func(i int) string {
	letters := ""
	if v := f.values["sliding_window_pattern"]; len(v) > 0 && v[0] == '"' {
		letters = f.str("sliding_window_pattern", "")
	}
	if letters == "" {
		return slidingBut(f.size("sliding_window_pattern", 4))
	}
	return func(i int) string {
		if letters[i%len(letters)] == 'L' && i < layers-1 {
			return slidingAttention
		}
		return fullAttention
	}
}

func (b *builder) exaone4Block(rope *Rope, act activation) {
	c := b.c
	q, k, v := b.qkv(stream)
	b.headNorm(q, "self_attn.q_norm", normSpec{}, false)
	b.headNorm(k, "self_attn.k_norm", normSpec{}, false)
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index)})
	o := b.linear(a, "self_attn.o_proj", c.Hidden, false)
	b.normSelf(o, "post_attention_layernorm", normSpec{})
	b.add(stream, o, 1)
	y := b.mlpOutput(stream, "mlp.", act)
	b.normSelf(y, "post_feedforward_layernorm", normSpec{})
	b.add(stream, y, 1)
}

// exaone4GGUF: the engine has windows only in the model of 64 layers.
func exaone4GGUF() *GGUF {
	return &GGUF{
		Name: "exaone4", RopeFreqs: true,
		Constants: map[string]any{"sliding_window": nil},
		Block: joined(ggufQKV(false), ggufQKNorms, []GGUFName{ggufOutput}, ggufNorm("post_attention_layernorm", "post_attention_norm"),
			ggufGated, ggufNorm("post_feedforward_layernorm", "post_ffw_norm")),
		Check: func(m *Model) error {
			if m.number("sliding_window") != 0 {
				return refuse("sliding_window", m.Value("sliding_window"), "exaone4 of this size")
			}
			return nil
		},
	}
}
