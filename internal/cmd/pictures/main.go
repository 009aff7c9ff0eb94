// Command pictures draws, of a model of one's own, what AdaDim (arXiv 2309.15531) shows of
// Llama-2: how sensitive weights are, by input and output channel and by depth (section 3.2),
// and which axis is chosen for which layer (section 4):
//
//	go run ./internal/cmd/pictures -model DIR -text FILE -o docs/pictures
//
// It writes NAME-sensitivity.png and NAME-axes.png, NAME being that of the model's folder, and
// prints the figures behind them. docs/reproduce.md shows those of the models at hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/golowbit/lowbit"
)

// options are the flags.
type options struct {
	model, text, out string
	samples, seqLen  int
	bits, group      int
	perDocument      bool
}

func main() {
	var o options
	flag.StringVar(&o.model, "model", "", "folder of the model")
	flag.StringVar(&o.text, "text", "", "file of text")
	flag.StringVar(&o.out, "o", ".", "folder for the pictures")
	flag.IntVar(&o.samples, "samples", 16, "windows of the text")
	flag.IntVar(&o.seqLen, "seq-len", 256, "tokens a window")
	flag.IntVar(&o.bits, "bits", 3, "bits a weight, for the choice of the axis")
	flag.IntVar(&o.group, "group-size", 128, "weights in a group, for the choice of the axis")
	flag.BoolVar(&o.perDocument, "per-document", false, "documents of the text are separated by blank lines")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	if o.model == "" || o.text == "" {
		return errors.New("-model and -text are needed")
	}
	maps, err := sensitivity(ctx, o)
	if err != nil {
		return err
	}
	name := filepath.Join(o.out, filepath.Base(filepath.Clean(o.model)))
	if err := drawMaps(maps, name+"-sensitivity.png"); err != nil {
		return err
	}
	fmt.Println("| layer | of its sensitivity in 1 % of the inputs | in 1 % of the outputs |\n| --- | --- | --- |")
	for _, m := range maps {
		fmt.Printf("| block %d, %s | %.0f %% | %.0f %% |\n", m.block, m.role, 100*m.inputs, 100*m.outputs)
	}
	layers, err := axes(ctx, o)
	if err != nil {
		return err
	}
	printAxes(layers)
	return drawAxes(layers, name+"-axes.png")
}

// place is where a layer lies: "model.layers.3.mlp.up_proj" is up_proj of block 3.
var place = regexp.MustCompile(`\.(\d+)\.(?:.*\.)?([^.]+)$`)

func placeOf(layer string) (block int, role string, err error) {
	m := place.FindStringSubmatch(layer)
	if m == nil {
		return 0, "", fmt.Errorf("%s: no layer of a block", layer)
	}
	block, err = strconv.Atoi(m[1])
	return block, m[2], err
}

// axes has AdaDim choose by rounding to nearest, as the paper does, and gives what it says of
// every layer.
func axes(ctx context.Context, o *options) ([]chosen, error) {
	dir, err := os.MkdirTemp("", "lowbit-pictures-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r, err := lowbit.Quantize(ctx, lowbit.Options{
		Model: o.model, Output: filepath.Join(dir, "out"), Preset: lowbit.Paper, Bits: o.bits, GroupSize: o.group,
		Calibration: lowbit.Calibration{Text: o.read(), Samples: o.samples, SeqLen: o.seqLen},
	})
	if err != nil {
		return nil, err
	}
	var all []chosen
	for _, l := range r.Layers {
		if l.Margin == nil {
			continue
		}
		block, role, err := placeOf(l.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, chosen{block, role, *l.Margin})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: of no layer both axes were tried", o.model)
	}
	return all, nil
}

// chosen is what was found of a layer: margin is ln(L_ic/L_oc), negative where groups lie
// inside input channels.
type chosen struct {
	block  int
	role   string
	margin float64
}

// printAxes prints, by role, how many layers got groups inside input channels.
func printAxes(layers []chosen) {
	fmt.Println("\n| layers | groups inside input channels |\n| --- | --- |")
	for _, role := range roles(layers, func(c chosen) string { return c.role }) {
		n, ic := 0, 0
		for _, c := range layers {
			if c.role == role {
				n++
				if c.margin < 0 {
					ic++
				}
			}
		}
		fmt.Printf("| %s | %d of %d |\n", role, ic, n)
	}
}

// roles are the names in the order in which they come.
func roles[T any](all []T, of func(T) string) []string {
	var names []string
	seen := map[string]bool{}
	for _, v := range all {
		if name := of(v); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

func (o *options) read() lowbit.Text {
	t := lowbit.Text{Files: []string{o.text}}
	if o.perDocument {
		t.PerDocument, t.BOS = true, &o.perDocument
	}
	return t
}
