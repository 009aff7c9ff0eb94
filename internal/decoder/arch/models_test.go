package arch

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/mixture"
	"github.com/golowbit/lowbit/internal/decoder/arch/recurrent"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

var update = flag.Bool("update", false, "write docs/models.md")

const modelsHead = `# Models

What ` + "`config.json`" + ` may say, and what was verified how. Generated from the code
(` + "`go test ./internal/decoder/arch -run TestModelsPage -update`" + `); a test holds it to the code.

**Logits** names the tiny models of ` + "`testdata/architectures`" + ` whose logits agree with those of Hugging Face
transformers 5.24 (float32, CPU) to 2e-4 of their standard deviation; ` + "`go test ./internal/decoder/arch -run TestArchitectures`" + `
compares them, ` + "`LOWBIT_ARCHITECTURES=FOLDER`" + ` takes more. **GGUF** is the architecture under which a file for llama.cpp
is written; "–" means that format gguf refuses the model. The other formats hold every model whose
layers they can hold.

A model that is not here can be quantized without a decoder, by round-to-nearest: which tensors are
linear layers is then told by name and shape (` + "`--method rtn`, `--include`, `--exclude`" + `).
`

// TestModelsPage holds docs/models.md to the list of architectures.
func TestModelsPage(t *testing.T) {
	tested := map[string][]string{}
	files, err := filepath.Glob("../../../testdata/architectures/*/config.json")
	require.NoError(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var c struct {
			Classes []string `json:"architectures"`
		}
		require.NoError(t, json.Unmarshal(spec.NonFinite(data), &c))
		for _, class := range c.Classes {
			tested[class] = append(tested[class], filepath.Base(filepath.Dir(file)))
		}
	}
	var page strings.Builder
	page.WriteString(modelsHead)
	for _, family := range []struct {
		name, before string
		list         []*spec.Architecture
		behind       string
	}{{"Dense", "", dense.Architectures(), ""}, {"Mixtures of experts", "", mixture.Architectures(), aboutExperts}, {"With recurrent mixers", aboutStates, recurrent.Architectures(), ""}} {
		fmt.Fprintf(&page, "\n## %s\n%s\n| architecture | model_type | logits | GGUF |\n|---|---|---|---|\n", family.name, family.before)
		for _, a := range family.list {
			var names []string
			for _, class := range a.Classes {
				names = append(names, tested[class]...)
			}
			slices.Sort(names)
			if names == nil {
				names = []string{"not in this repository"}
			}
			gguf := "–"
			if a.GGUF != nil {
				gguf = a.GGUF.Name
				for _, t := range slices.Sorted(maps.Keys(a.GGUF.Inner)) {
					gguf += ", " + a.GGUF.Inner[t].Name
				}
			}
			types := strings.Join(append([]string{a.Type}, a.OtherTypes...), ", ")
			fmt.Fprintf(&page, "| %s | %s | %s | %s |\n", strings.Join(a.Classes, ", "), types, strings.Join(names, ", "), gguf)
		}
		page.WriteString(family.behind)
	}
	const path = "../../../docs/models.md"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, page.String(), string(have), "write it anew: go test ./internal/decoder/arch -run TestModelsPage -update")
}

// What the page says of families, before and behind their tables.
const (
	aboutExperts = `
Experts see the tokens that are routed to them. In presets ` + "`" + `fast` + "`" + ` and ` + "`" + `best` + "`" + ` other tokens of the text (a sample of up to four
times the width, the same for all) go through every expert too, and count among its own as if they were a tenth of a token for each
input: H is shrunk towards that of its layer by n/10 / (n/10 + tokens), n inputs. An expert that no token reaches is rounded to
nearest, clipped by their H. The report says of each expert's layers how many tokens were routed to it (` + "`" + `tokens` + "`" + ` in ` + "`" + `--json` + "`" + `), and
of which fell back (` + "`" + `notes` + "`" + `, and on the terminal). ` + "`" + `--route-all` + "`" + ` has every expert see all tokens, for statistics alone
([figures](accuracy.md#experts-with-few-tokens)).

Routers stay dense, and so do convolutions, embeddings and the head, which are no layers here.
`
	aboutStates = `
The linears that steer a state stay dense by default: ` + "`" + `x_proj` + "`" + ` and ` + "`" + `dt_proj` + "`" + ` of Mamba, ` + "`" + `in_proj_ba` + "`" + `, ` + "`" + `in_proj_a` + "`" + ` and ` + "`" + `in_proj_b` + "`" + ` of
gated delta nets (Qwen3-Next, Qwen3.5). ` + "`" + `--include 'x_proj|dt_proj'` + "`" + ` or a ` + "`" + `--rule` + "`" + ` that matches their names quantizes them.
`
)
