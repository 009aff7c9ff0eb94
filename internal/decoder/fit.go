package decoder

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/program/near"
)

// ErrNoHead is wrapped by Fit where everything fits but the head is not there.
var ErrNoHead = errors.New("missing")

// Fit takes the names that a file's tensors have. The same model is saved as
// model.layers.0..., without "model." by those who save the model without its
// head, and with language_model. in front by models for images and text; with
// tied embeddings the one matrix may be saved as the head. Fit finds out by
// looking for the embedding and renames everything. A head that is saved beside
// the embedding and differs from it is not tied, whatever the configuration says:
// so it is in transformers since version 5. Layers that may lie in tensors with
// several have a Slice afterwards only if they do. Fit is called before CheckShapes.
// An error names what was looked for and what is there.
func (m *Model) Fit(w program.Weights) error {
	body := m.Names.body()
	for _, p := range bodies(body) {
		if w.Has(m.Names.moved(body, p).Embedding) {
			return m.rename(w, body, p)
		}
	}
	if m.Tied { // perhaps only the head was saved
		for _, p := range bodies(body) {
			if name := m.headBeside(w, p); name != "" && m.Blocks[0].Under(w, fmt.Sprintf(m.Names.moved(body, p).Block, 0)) != "" {
				if err := m.rename(w, body, p); err != nil {
					return err
				}
				m.Names.Embedding = name
				return nil
			}
		}
	}
	return fmt.Errorf("tensor %q: missing, also under other prefixes%s", m.Names.Embedding, near.There(w))
}

// body is what all names but that of the head begin with.
func (n Names) body() string {
	i := 0
	for i < len(n.Embedding) && i < len(n.Block) && n.Embedding[i] == n.Block[i] {
		i++
	}
	return n.Embedding[:strings.LastIndexByte(n.Embedding[:i], '.')+1]
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
func (n Names) moved(body, prefix string) Names {
	for _, s := range []*string{&n.Embedding, &n.FinalNorm, &n.Block, &n.ProjectIn, &n.ProjectOut, &n.Positions, &n.EmbedNorm} {
		if rest, ok := strings.CutPrefix(*s, body); ok {
			*s = prefix + rest
		}
	}
	return n
}

// headBeside returns the name of the head of a body with this prefix, "" if it
// is not there.
func (m *Model) headBeside(w program.Weights, prefix string) string {
	outer := strings.TrimSuffix(prefix, "model.")
	for _, name := range []string{m.Names.Head, outer + m.Names.Head, prefix + m.Names.Head, "model." + m.Names.Head} {
		if w.Has(name) {
			return name
		}
	}
	return ""
}

// rename gives all tensors the names they have with another prefix.
func (m *Model) rename(w program.Weights, body, prefix string) error {
	m.Names = m.Names.moved(body, prefix)
	head := m.headBeside(w, prefix)
	switch {
	case head != "":
		m.Names.Head = head
	case !m.Tied:
		return fmt.Errorf(`tensor %q: %w, and "tie_word_embeddings" is false%s`, m.Names.Head, ErrNoHead, near.There(w))
	}
	if m.Tied && head != "" && w.Has(m.Names.Embedding) {
		same, err := sameMatrix(w, m.Names.Embedding, head)
		if err != nil {
			return err
		}
		m.Tied = same
	}
	for _, p := range m.Blocks {
		p.Rename(fmt.Sprintf(m.Names.Block, p.Index))
		p.Settle(w)
	}
	return nil
}

// sameMatrix tells whether two matrices are equal. One that is quantized is not
// equal to any.
func sameMatrix(w program.Weights, a, b string) (bool, error) {
	sa, _ := w.Shape(a)
	sb, _ := w.Shape(b)
	if q, ok := w.(program.Quantized); ok && (q.QuantizedWeight(a) || q.QuantizedWeight(b)) || !slices.Equal(sa, sb) {
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
