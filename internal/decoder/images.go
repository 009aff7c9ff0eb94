package decoder

import (
	"slices"
	"strings"
)

// withImages is a model for images and text, of which only the text model is
// run: its configuration is in "text_config", where missing is what an absent
// "model_type" means. What is as in transformers' config class of the text model
// is left out there: sizes says what that is, by model type. The text model is one
// of inner.
func withImages(class, modelType, missing string, sizes map[string]map[string]int, inner ...*Architecture) *Architecture {
	return &Architecture{
		Classes: []string{class}, Type: modelType,
		read: func(f *fields, c *Config) func(*builder) {
			t := f.object("text_config")
			if t == nil {
				f.fail("text_config", "missing")
				return nil
			}
			text := t.str("model_type", missing)
			i := slices.IndexFunc(inner, func(a *Architecture) bool { return a.Type == text })
			if i < 0 {
				var types []string
				for _, a := range inner {
					types = append(types, a.Type)
				}
				t.unsupported("model_type", text, strings.Join(types, ", "))
				f.take(t)
				return nil
			}
			for key, v := range sizes[text] {
				t.missing(key, v)
			}
			for _, key := range []string{"bos_token_id", "eos_token_id"} {
				if t.null(key) && !f.null(key) {
					t.values[key] = f.values[key]
				}
			}
			tied := f.bool("tie_word_embeddings", true) // the inner one has no effect
			// The dtype of the file is that of the whole; the inner one is
			// whatever the model was made in.
			for _, key := range []string{"dtype", "torch_dtype"} {
				delete(t.values, key)
				if !f.null(key) {
					t.values[key] = f.values[key]
				}
			}
			block := inner[i].read(t, c)
			f.take(t)
			c.Tied = tied
			return block
		},
	}
}
