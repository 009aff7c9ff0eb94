package decoder

import "encoding/json"

// withImages is a model for images and text, of which only the text model is
// run: its configuration is in "text_config", where missing is what an absent
// "model_type" means. What is as in transformers' config class of the text model
// is left out there: sizes says what that is, by model type.
func withImages(class, modelType, missing string, sizes map[string]map[string]int) *Architecture {
	return &Architecture{
		Classes: []string{class}, Type: modelType,
		read: func(f *fields, c *Config) func(*builder) {
			t := f.object("text_config")
			if t == nil {
				f.fail("text_config", "missing")
				return nil
			}
			inner := t.str("model_type", missing)
			a := architectureOfType(inner)
			if a == nil {
				t.unsupported("model_type", inner, missing)
				f.take(t)
				return nil
			}
			for key, v := range sizes[inner] {
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
			block := a.read(t, c)
			f.take(t)
			f.seen = t.seen
			c.Tied = tied
			return block
		},
	}
}

// architectureOfType returns the architecture with a "model_type", or nil.
func architectureOfType(modelType string) *Architecture {
	for _, a := range architectures() {
		if a.Type == modelType {
			return a
		}
	}
	return nil
}

// missing sets what an absent key means.
func (f *fields) missing(key string, v int) {
	if f.absent(key) {
		f.values[key], _ = json.Marshal(v)
	}
}
