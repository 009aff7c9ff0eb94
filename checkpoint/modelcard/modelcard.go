// Package modelcard writes the README.md of a model that was made of another: a model card,
// as Hugging Face's hub has them.
package modelcard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/frontmatter"
	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/told"
	"github.com/golowbit/lowbit/internal/version"
)

const (
	fileName = "README.md"
	maxCard  = 16 << 20 // bytes of one that is read
	homepage = "https://github.com/golowbit/lowbit"
)

// denseName is the format in which nothing is quantized.
var denseName = dense.Format{}.Name()

// Made says what was made and how. What is zero is not told.
type Made struct {
	Format     layout.Format       // of the output
	Settings   []told.Setting      // those that were in effect
	Bits       float64             // a weight, over the quantized layers, all scales included
	Before     int64               // bytes of the source's files of weights
	Tokens     int                 // of the calibration text
	Engines    []layout.Note       // which engines load the output
	Evaluation *measure.Evaluation // of the output, against the source
}

// Write makes the README.md of the model in the folder dir, which was made of src: what
// src's says in front of its text of licence, languages and the like, what src is on the
// hub, how the model was made, and src's own text. Nothing in it depends on when and where
// that was. A model that is one file gets none. Errors name the file.
func Write(dir string, src *checkpoint.Model, m Made) error {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return err
	}
	old, err := disk.ReadFS(src.Files(), fileName, filepath.Join(src.Path(), fileName), maxCard)
	if errors.Is(err, disk.ErrTooLarge) {
		return nil // it stays what it is
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var after int64
	if m.Before > 0 {
		if after, err = checkpoint.WeightBytes(dir); err != nil {
			return err
		}
	}
	return disk.FS{}.WriteFile(filepath.Join(dir, fileName), m.card(old, src, m.tags(dir), after))
}

// Ready is Write as checkpoint.WriterOptions has it.
func (m Made) Ready(src *checkpoint.Model) func(context.Context, string) error {
	return func(_ context.Context, dir string) error { return Write(dir, src, m) }
}

// card is the whole text.
func (m *Made) card(old []byte, src *checkpoint.Model, tags []string, after int64) []byte {
	front, text := split(old)
	name, commit := src.Hub()
	var b bytes.Buffer
	m.front(&b, front, name, tags)
	m.told(&b, src, name, commit, after)
	if text = bytes.TrimSpace(text); len(text) > 0 {
		of := "the model it was made of"
		if name != "" {
			of = name
		}
		fmt.Fprintf(&b, "\n## The model card of %s\n\n%s\n", of, text)
	}
	return b.Bytes()
}

// tags are what the output is found by: who made it, its format, its bits where all layers
// have the same.
func (m *Made) tags(dir string) []string {
	tags := []string{"lowbit"}
	if name := m.Format.Name(); name != denseName {
		tags = append(tags, name)
	}
	made, err := checkpoint.Open(dir, m.Format)
	if err != nil {
		return tags // it is only a tag
	}
	defer made.Close()
	bits := map[int]bool{}
	for _, l := range made.Layers() {
		bits[l.Scheme.Bits] = true
	}
	for n := range bits {
		if len(bits) == 1 && n > 0 {
			tags = append(tags, fmt.Sprintf("%d-bit", n))
		}
	}
	return tags
}

// split takes a card apart. One that says nothing that can be read before its text is text.
func split(card []byte) (front map[string]any, text []byte) {
	card = bytes.ReplaceAll(bytes.TrimPrefix(card, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
	head, text, ok := frontmatter.Split(append(slices.Clone(card), '\n')) // also one that ends with its dashes
	if !ok || yaml.Unmarshal(head, &front) != nil {
		return nil, card
	}
	return front, text
}

// kept are keys of the source's card that hold for the model too, in the order in which they
// are written. The rest is about the source: results of evaluations, gates, widgets.
var kept = []string{
	"license", "license_name", "license_link", "language", "base_model", "base_model_relation", "library_name", "pipeline_tag", "datasets", "tags",
}

// front writes what stands before the text.
func (m *Made) front(b *bytes.Buffer, source map[string]any, name string, more []string) {
	front := map[string]any{"pipeline_tag": "text-generation", "library_name": "transformers"}
	for _, key := range kept {
		if v, ok := source[key]; ok && v != nil {
			front[key] = v
		}
	}
	if name != "" {
		front["base_model"] = name
		front["base_model_relation"] = "quantized"
		if m.Format.Name() == denseName {
			delete(front, "base_model_relation")
		}
	}
	switch m.Format.(type) {
	case mlx.Format, native.Format:
		front["library_name"] = m.Format.Name()
	}
	tags := texts(front["tags"])
	for _, tag := range more {
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	front["tags"] = tags
	b.WriteString("---\n")
	for _, key := range kept {
		if v, ok := front[key]; ok {
			if line, err := yaml.Marshal(map[string]any{key: v}); err == nil {
				b.Write(line)
			}
		}
	}
	b.WriteString("---\n")
}

// texts is a value that is one text or several.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, fmt.Sprint(e))
		}
		return all
	}
	return nil
}

// told writes what was made and how.
func (m *Made) told(b *bytes.Buffer, src *checkpoint.Model, name, commit string, after int64) {
	done := "quantized"
	if m.Settings == nil {
		done = "converted"
	}
	title, what := "A "+done+" model", strings.ToUpper(done[:1])+done[1:]
	if name != "" {
		title = name[strings.LastIndex(name, "/")+1:] + ", " + done
		what = fmt.Sprintf("[%s](%s/%s) at commit `%s`, %s", name, hubcache.URL, name, commit, done)
	}
	by := fmt.Sprintf("[lowbit](%s)", homepage)
	if v := version.Module(); strings.HasPrefix(v, "v") {
		by += " " + v
	}
	fmt.Fprintf(b, "\n# %s\n\n%s by %s.\n\n| | |\n|---|---|\n", title, what, by)
	row := func(key, format string, args ...any) {
		fmt.Fprintf(b, "| %s | %s |\n", key, cell(fmt.Sprintf(format, args...)))
	}
	row("format", "%s", m.Format.Name())
	if m.Bits > 0 {
		row("bits", "%.3f a weight of the quantized layers, scales counted", m.Bits)
	}
	if after > 0 {
		row("weights", "%s, before %s", megabytes(after), megabytes(m.Before))
	}
	if m.Tokens > 0 {
		row("calibrated on", "%d tokens", m.Tokens)
	}
	for _, note := range src.Notes() {
		row("note", "%s", note)
	}
	engines := []string{"lowbit"}
	for _, n := range m.Engines {
		if n.Accepted {
			engines = append(engines, n.Name())
		}
	}
	row("loaded by", "%s", strings.Join(engines, ", "))
	if e := m.Evaluation; e != nil && e.Against != nil && e.KL != nil {
		row("perplexity", "%.4f, before %.4f", e.Perplexity, *e.Against)
		row("KL divergence", "%.5f nats a token", *e.KL)
		if e.Divergence != nil {
			row("same likeliest token", "%.2f %%", 100*e.SameTop)
		}
		row("measured on", "%d tokens, in windows of %d", e.Tokens, e.Window)
	}
	m.settings(b)
}

// megabytes is a size in decimal units.
func megabytes(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.2f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

// apart are settings that decide nothing in the result.
var apart = []string{"workers"}

func (m *Made) settings(b *bytes.Buffer) {
	if len(m.Settings) == 0 {
		return
	}
	b.WriteString("\n| setting | value | from |\n|---|---|---|\n")
	for _, s := range m.Settings {
		text := s.Text()
		if text == "" || slices.Contains(apart, s.Name) {
			continue
		}
		if s.Name == "importance_matrix" {
			text = filepath.Base(text)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", s.Name, cell(text), cell(s.From))
	}
}

// cell is a text that stays in the cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\r", " ", "\n", " ").Replace(text)
}
