package decoder

import (
	"fmt"
	"slices"
	"strings"
)

// Fit takes the names that a file's tensors have. The same model is saved as
// model.layers.0..., without "model." by those who save the model without its
// head, and with language_model. in front by models for images and text; with
// tied embeddings the one matrix may be saved as the head. Fit finds out by
// looking for the embedding and renames everything. A head that is saved beside
// the embedding and differs from it is not tied, whatever the configuration says:
// so it is in transformers since version 5. Layers that may lie in tensors with
// several have a Slice afterwards only if they do. Fit is called before CheckShapes.
// An error names what was looked for and what is there.
func (m *Model) Fit(w Weights) error {
	body := m.names.body()
	for _, p := range bodies(body) {
		if w.Has(m.names.moved(body, p).embedding) {
			return m.rename(w, body, p)
		}
	}
	if m.Tied { // perhaps only the head was saved
		for _, p := range bodies(body) {
			if name := m.headBeside(w, p); name != "" && m.Blocks[0].any(w, m.names.moved(body, p).block) {
				if err := m.rename(w, body, p); err != nil {
					return err
				}
				m.names.embedding = name
				return nil
			}
		}
	}
	return fmt.Errorf("tensor %q: missing, also under other prefixes%s", m.names.embedding, there(w))
}

// body is what all names but that of the head begin with.
func (n names) body() string {
	i := 0
	for i < len(n.embedding) && i < len(n.block) && n.embedding[i] == n.block[i] {
		i++
	}
	return n.embedding[:strings.LastIndexByte(n.embedding[:i], '.')+1]
}

// bodies lists what may stand in place of the body's prefix.
func bodies(body string) []string {
	inner := strings.TrimPrefix(body, "model.")
	var all []string
	for _, outer := range []string{"", "language_model.", "model.language_model.", "text_model.", "model.text_model.", "llm.", "base_model.", "model."} {
		for _, p := range []string{outer + body, outer + inner, outer} {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// moved are the names with another prefix of the body.
func (n names) moved(body, prefix string) names {
	for _, s := range []*string{&n.embedding, &n.finalNorm, &n.block, &n.projectIn, &n.projectOut, &n.positions, &n.embedNorm} {
		if rest, ok := strings.CutPrefix(*s, body); ok {
			*s = prefix + rest
		}
	}
	return n
}

// headBeside returns the name of the head of a body with this prefix, "" if it
// is not there.
func (m *Model) headBeside(w Weights, prefix string) string {
	outer := strings.TrimSuffix(prefix, "model.")
	for _, name := range []string{m.names.head, outer + m.names.head, prefix + m.names.head, "model." + m.names.head} {
		if w.Has(name) {
			return name
		}
	}
	return ""
}

// any tells whether there is a tensor of the block under a prefix.
func (p *Program) any(w Weights, block string) bool {
	prefix := fmt.Sprintf(block, p.Index)
	if slices.ContainsFunc(p.params, func(t param) bool { return w.Has(prefix + t.path) }) {
		return true
	}
	return slices.ContainsFunc(p.Linears, func(l LinearInfo) bool {
		return w.Has(prefix+l.Path+".weight") || w.Has(prefix+strings.TrimPrefix(l.Stored().Weight, p.prefix))
	})
}

// rename gives all tensors the names they have with another prefix.
func (m *Model) rename(w Weights, body, prefix string) error {
	m.names = m.names.moved(body, prefix)
	head := m.headBeside(w, prefix)
	switch {
	case head != "":
		m.names.head = head
	case !m.Tied:
		return fmt.Errorf(`tensor %q: missing, and "tie_word_embeddings" is false%s`, m.names.head, there(w))
	}
	if m.Tied && head != "" && w.Has(m.names.embedding) {
		same, err := sameMatrix(w, m.names.embedding, head)
		if err != nil {
			return err
		}
		m.Tied = same
	}
	for _, p := range m.Blocks {
		p.rename(fmt.Sprintf(m.names.block, p.Index))
		for i := range p.Linears {
			if l := &p.Linears[i]; l.Slice != nil && l.Slice.Weight != l.WeightName() && l.asOwn(w) {
				l.Slice = nil
			}
		}
	}
	return nil
}

// sameMatrix tells whether two matrices are equal. One that is quantized is not
// equal to any.
func sameMatrix(w Weights, a, b string) (bool, error) {
	sa, _ := w.Shape(a)
	sb, _ := w.Shape(b)
	if q, ok := w.(Quantized); ok && (q.QuantizedWeight(a) || q.QuantizedWeight(b)) || !slices.Equal(sa, sb) {
		return false, nil
	}
	const step = 256
	var x, y []float32
	for i := 0; i < sa[0]; i += step {
		var err error
		if x, err = w.Rows(a, i, min(i+step, sa[0]), x); err != nil {
			return false, err
		}
		if y, err = w.Rows(b, i, min(i+step, sa[0]), y); err != nil {
			return false, err
		}
		if !slices.Equal(x, y) {
			return false, nil
		}
	}
	return true, nil
}

// rename gives the block's tensors names with another prefix.
func (p *Program) rename(prefix string) {
	old := p.prefix
	p.prefix = prefix
	for i := range p.Linears {
		l := &p.Linears[i]
		l.Name = prefix + l.Path
		if l.Slice == nil {
			continue
		}
		s := *l.Slice
		for _, name := range []*string{&s.Weight, &s.Bias} {
			if rest, ok := strings.CutPrefix(*name, old); ok {
				*name = prefix + rest
			}
		}
		l.Slice = &s
	}
}

// beside says what tensors lie where one is missing, the nearest only; "" if
// there are none or that is not known. Fused linears are told apart: they are
// another architecture's.
func beside(w Weights, name string) string {
	l, ok := w.(interface{ Names() []string })
	if !ok {
		return ""
	}
	prefix := strings.TrimSuffix(name, ".weight")
	var near []string
	for len(near) == 0 && prefix != "" {
		prefix = prefix[:max(strings.LastIndexByte(strings.TrimSuffix(prefix, "."), '.')+1, 0)]
		if prefix == "" {
			return there(w)
		}
		for _, n := range l.Names() {
			if strings.HasPrefix(n, prefix) {
				near = append(near, n)
			}
		}
	}
	slices.Sort(near)
	isFused := func(n string) bool {
		return slices.ContainsFunc([]string{"qkv", "gate_up", "query_key_value", "pack", "c_attn", "kv_proj"}, func(s string) bool {
			return strings.Contains(strings.ToLower(n), s)
		})
	}
	const most = 6
	if fused := slices.DeleteFunc(slices.Clone(near), func(n string) bool { return !isFused(n) }); len(fused) > 0 {
		return fmt.Sprintf("; there is %s, several linears in one, which this architecture does not have: split it, or name the architecture that has it", strings.Join(fused[:min(len(fused), most)], ", "))
	}
	if len(near) > most {
		near = append(near[:most], "...")
	}
	return "; beside it there are: " + strings.Join(near, ", ")
}

// there says what tensors there are, for errors; "" if that is not known.
func there(w Weights) string {
	l, ok := w.(interface{ Names() []string })
	if !ok {
		return ""
	}
	all := l.Names()
	slices.Sort(all)
	const most = 4
	if len(all) > most {
		return fmt.Sprintf("; there are %d tensors: %s, ...", len(all), strings.Join(all[:most], ", "))
	}
	return fmt.Sprintf("; there are: %s", strings.Join(all, ", "))
}
