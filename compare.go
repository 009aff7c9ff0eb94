package lowbit

import (
	"context"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/inspection"
	"github.com/golowbit/lowbit/checkpoint/measure"
)

// CompareOptions describe a comparison of models that were made of one. Its text, and how
// it is run, are those of EvalOptions; Model and Against are not used.
type CompareOptions struct {
	EvalOptions
	Source   string   // the model that the others were made of
	Variants []string // quantized or not, in any format, with the vocabulary of Source
}

// Compared is a model with its size and how it predicts.
type Compared struct {
	Path          string  `json:"path"`
	Format        string  `json:"format"`
	Bytes         int64   `json:"bytes"`           // the files of weights
	BitsPerWeight float64 `json:"bits_per_weight"` // of these, over all parameters, embeddings too
	Evaluation
}

// Compare runs the source and its variants on text, the source once, and says how far each
// variant is from it. The source comes first, without a divergence.
func Compare(ctx context.Context, o CompareOptions) ([]Compared, error) {
	o.Model, o.Against = o.Source, ""
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if len(o.Variants) == 0 {
		return nil, badOptions("nothing to compare %s with", o.Source)
	}
	var models []*measure.Model
	defer func() {
		for _, m := range models {
			_ = m.Close()
		}
	}()
	out := make([]Compared, 0, 1+len(o.Variants))
	for _, path := range append([]string{o.Source}, o.Variants...) {
		base := ""
		if checkpoint.IsAdapter(path) {
			base = o.Base
		}
		m, err := o.open(path, base)
		if err != nil {
			return nil, err
		}
		models = append(models, m)
		if err := m.Comparable(models[0]); err != nil {
			return nil, err
		}
		info, err := inspection.Of(m.Source(), m.Source().Path(), nil)
		if err != nil {
			return nil, err
		}
		out = append(out, Compared{Path: path, Format: info.Format, Bytes: info.FileBytes, BitsPerWeight: 8 * float64(info.FileBytes) / float64(max(1, info.Parameters))})
	}
	w, err := o.windows(models[0], models[0].Source(), o.Tokenizer)
	if err != nil {
		return nil, err
	}
	e, err := o.job(append(models[1:len(models):len(models)], models[0]), w).Run(ctx)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Evaluation = *e[(i+len(e)-1)%len(e)]
	}
	return out, nil
}
