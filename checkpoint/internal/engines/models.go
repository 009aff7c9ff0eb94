package engines

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/verified"
)

// Model says that an engine fails on architectures in a format that it has the
// table's rows for.
type Model struct {
	Engine  string
	Formats []string
	Types   []string // model_type in config.json
	Linears string   // in the names of the quantized linears that it fails on; "": any
	Only    string   // the versions that fail, if not all
	Others  string   // with Only: the versions that do not
	Note    string   // why
}

const (
	stacked    = "holds the experts in one tensor, and draws it at random where they are quantized one by one, without an error"
	transposed = "holds its matrices transposed, not as linears, and draws those that are quantized at random, without an error"
	renamed    = "stops with an error: its loader has names of its own for the weights of feed-forward layers, and not for their scales"
	touched    = "stops with an error: it asks for the weight of linears that have packed ones"
)

// Models are the exceptions. They rest on what the checks found of the models in
// testdata/architectures.
var Models = []Model{
	{Engine: layout.EngineTransformers, Formats: ct, Types: []string{"gpt_oss", "granitemoe", "granitemoeshared", "granitemoehybrid"}, Linears: ".experts.", Note: stacked},
	{Engine: layout.EngineTransformers, Formats: ct, Types: []string{"gpt2"}, Note: transposed},
	{Engine: layout.EngineTransformers, Formats: ct, Types: []string{"falcon_mamba"}, Note: touched},
	{Engine: layout.EngineTransformers, Formats: ct, Types: []string{"falcon", "gpt_bigcode", "mamba", "mamba2", "phimoe"}, Only: "5", Others: "4", Note: touched},
	{Engine: layout.EngineMLX, Formats: mlxNames, Types: []string{"lfm2_moe"}, Note: renamed},
}

// ownAttention stands for the model_type of models whose configuration asks for a softmax or gates that no engine
// knows (arXiv 2306.12929): all of them compute another model, without an error.
const ownAttention = "opt with attn_softmax, alpha or attn_gate_type"

// TypeOf is the model_type of a config.json, "" if there is none.
func TypeOf(config json.RawMessage) string {
	var c struct {
		Type    string   `json:"model_type"`
		Softmax string   `json:"attn_softmax"`
		Alpha   *float64 `json:"alpha"`
		Gate    string   `json:"attn_gate_type"`
	}
	if json.Unmarshal(config, &c) != nil {
		return ""
	}
	if c.Type == "opt" && (c.Softmax != "" && c.Softmax != "vanilla" || c.Alpha != nil || c.Gate != "" && c.Gate != "none") {
		return ownAttention
	}
	return c.Type
}

// ForModel takes back what notes say of models in general where an engine fails
// on the architecture.
func ForModel(format, modelType string, layers []layout.Layer, notes []layout.Note) []layout.Note {
	notes = slices.Clone(notes)
	for i := range notes {
		if modelType == ownAttention && notes[i].Accepted {
			notes[i] = layout.Note{Engine: notes[i].Engine, Reason: "knows neither clipped softmax nor gates of attention, and computes another model without an error"}
		}
		for _, m := range Models {
			if m.Engine == notes[i].Engine && slices.Contains(m.Formats, format) && slices.Contains(m.Types, modelType) && m.has(layers) {
				notes[i] = m.restrict(notes[i], modelType)
			}
		}
	}
	return notes
}

// has tells whether there are linears that the engine fails on.
func (m Model) has(layers []layout.Layer) bool {
	return slices.ContainsFunc(layers, func(l layout.Layer) bool { return !l.Dense && strings.Contains(l.Name, m.Linears) })
}

// restrict is a note of an engine that fails on the model.
func (m Model) restrict(n layout.Note, modelType string) layout.Note {
	if !n.Accepted {
		return n
	}
	note := "model_type " + modelType + ": " + m.Note
	if m.Others == "" || n.Versions != "" && n.Versions != m.Others {
		return layout.Note{Engine: n.Engine, Reason: note, Verified: m.seen(modelType, "", false)}
	}
	n.Versions, n.Verified = m.Others, m.seen(modelType, m.Others, true)
	if n.Reason != "" {
		n.Reason += "; "
	}
	n.Reason += "version " + m.Only + " " + m.Note
	return n
}

// seen are the versions in which models of a type were seen to load, or not.
func (m Model) seen(modelType, major string, loads bool) string {
	var found []verified.Result
	for _, v := range verified.Results() {
		if v.Engine == m.Engine && v.Type == modelType && slices.Contains(m.Formats, v.Format) && v.Loads == loads &&
			(major == "" || strings.HasPrefix(v.Version, major+".")) {
			found = append(found, v)
		}
	}
	return versions(found)
}
