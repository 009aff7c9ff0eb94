package decoder

// olmoArch is OLMo (arXiv 2402.00838): Llama's block with LayerNorms that have
// no gains, and queries, keys and values clipped.
func olmoArch() *Architecture {
	return &Architecture{
		Classes: []string{"OlmoForCausalLM"}, Type: "olmo", GGUF: olmoGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			clip := f.float("clip_qkv", 0)
			act := readActivation(f, "hidden_act", "silu")
			c.NormEps = 1e-5
			norm := normSpec{layer: true, plain: true}
			c.head.norm = norm
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", norm)
				q, k, v := b.qkv(h)
				for _, p := range []heads{q, k, v} {
					b.clip(p.reg, clip)
				}
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", c.OBias)
				h = b.norm(stream, "post_attention_layernorm", norm)
				b.gatedMLP(stream, h, "mlp.", act)
			}
		},
	}
}

// olmo2Arch is OLMo 2 (arXiv 2501.00656): norms after attention and MLP instead
// of before, and of all queries and all keys together.
func olmo2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Olmo2ForCausalLM"}, Type: "olmo2", GGUF: olmo2GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			act := c.readOlmo2(f)
			c.Rope = c.readRope(f, fullAttention, 10000)
			return func(b *builder) { b.olmo2Block(c.Rope, act) }
		},
	}
}

// olmo3Arch is OLMo 3: OLMo 2's block, three layers with a window for each with
// full attention, and only the latter's rotation scaled.
func olmo3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Olmo3ForCausalLM"}, Type: "olmo3", GGUF: olmo3GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			act := c.readOlmo2(f)
			c.setWindows(f, c.layerTypes(f, slidingBut(4)), slidingWindow(f, 4096))
			c.Rope = c.layerRope(f, 500000)
			local := c.slidingRope(f, 500000)
			f.noteLocal(local)
			return func(b *builder) {
				rope := c.Rope
				if c.Window(b.p.Index) > 0 {
					rope = local
				}
				b.olmo2Block(rope, act)
			}
		},
	}
}

// slidingRope is the rotation of layers with a window where only the other
// layers' is scaled.
func (c *Config) slidingRope(f *fields, theta float64) *Rope {
	if p := f.object("rope_parameters"); p != nil && !p.null(slidingAttention) {
		return c.readRope(f, slidingAttention, theta)
	}
	if c.Rope == nil {
		return nil
	}
	return &Rope{Theta: c.Rope.Theta, Dim: c.Rope.Dim}
}

func (c *Config) readOlmo2(f *fields) activation {
	c.readShape(f, 0, 0)
	c.NormEps = f.float("rms_norm_eps", 1e-5)
	c.QKVBias = f.bool("attention_bias", false)
	c.OBias = c.QKVBias
	return readActivation(f, "hidden_act", "silu")
}

func (b *builder) olmo2Block(rope *Rope, act activation) {
	c := b.c
	q, k, v := b.qkv(stream)
	b.normSelf(q.reg, "self_attn.q_norm", normSpec{})
	b.normSelf(k.reg, "self_attn.k_norm", normSpec{})
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index)})
	o := b.linear(a, "self_attn.o_proj", c.Hidden, c.OBias)
	b.normSelf(o, "post_attention_layernorm", normSpec{})
	b.add(stream, o, 1)
	y := b.mlpOutput(stream, "mlp.", act)
	b.normSelf(y, "post_feedforward_layernorm", normSpec{})
	b.add(stream, y, 1)
}

func olmo2GGUF() *GGUF {
	return &GGUF{
		Name: "olmo2", OwnHead: true,
		Block: joined(ggufQKV(false), ggufQKNorms, []GGUFName{ggufOutput}, ggufNorm("post_attention_layernorm", "post_attention_norm"),
			ggufGated, ggufNorm("post_feedforward_layernorm", "post_ffw_norm")),
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}

// olmo3GGUF: the engine has one base for all rotations.
func olmo3GGUF() *GGUF {
	g := olmo2GGUF()
	plain := g.Check
	g.Needs, g.Period, g.Keys = "attention.sliding_window", 4, []GGUFKey{{"attention.sliding_window", "sliding_window"}}
	g.Check = func(m *Model) error {
		if m.Rope != nil && m.number("rope_local_base_freq") != m.Rope.Theta {
			return refuse("rope_parameters", "base of its own for windows", "olmo2")
		}
		if err := m.require(map[string]any{"rope scaling of windows": ""}); err != nil {
			return err
		}
		return plain(m)
	}
	return g
}

// olmoGGUF: norms have no tensors.
func olmoGGUF() *GGUF {
	return &GGUF{
		Name: "olmo", LayerNorm: true, Rename: map[string]string{"rms_norm_eps": ""}, Keys: []GGUFKey{{"attention.clamp_kqv", "clip_qkv"}},
		Block: joined(ggufQKV(true), []GGUFName{ggufOutput}, ggufGated),
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}
