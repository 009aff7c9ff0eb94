package spec

import (
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
)

// WithImages is a model for images and text, of which only the text model is
// run: its configuration is in "text_config", where missing is what an absent
// "model_type" means. What is as in transformers' config class of the text model
// is left out there: sizes says what that is, by model type. The text model is one
// of inner.
func WithImages(class, modelType, missing string, sizes map[string]map[string]int, inner ...*Architecture) *Architecture {
	return &Architecture{
		Classes: []string{class}, Type: modelType,
		Read: func(f *Fields, c *decoder.Config) func(*Builder) {
			t := f.Object("text_config")
			if t == nil {
				f.Fail("text_config", "missing")
				return nil
			}
			text := t.Str("model_type", missing)
			i := slices.IndexFunc(inner, func(a *Architecture) bool { return a.Type == text })
			if i < 0 {
				var types []string
				for _, a := range inner {
					types = append(types, a.Type)
				}
				t.Unsupported("model_type", text, strings.Join(types, ", "))
				f.Take(t)
				return nil
			}
			for key, v := range sizes[text] {
				t.Missing(key, v)
			}
			for _, key := range []string{"bos_token_id", "eos_token_id"} {
				if t.Null(key) && !f.Null(key) {
					t.Values[key] = f.Values[key]
				}
			}
			tied := f.Bool("tie_word_embeddings", true) // the inner one has no effect
			// The dtype of the file is that of the whole; the inner one is
			// whatever the model was made in.
			for _, key := range []string{"dtype", "torch_dtype"} {
				delete(t.Values, key)
				if !f.Null(key) {
					t.Values[key] = f.Values[key]
				}
			}
			block := inner[i].Read(t, c)
			f.Take(t)
			f.Seen = t.Seen
			c.Tied = tied
			return block
		},
	}
}
