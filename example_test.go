package lowbit_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/quant"
)

// Only what differs from the defaults is given: here one setting of the preset.
func ExampleResolve() {
	plan, err := lowbit.Resolve(lowbit.Options{
		Model: "testdata/tinyllama-2m", Output: "out", Target: "vllm", Clip: new(false),
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range plan.Settings[:10] {
		fmt.Printf("%-10s %-20s %s\n", s.Name, s.Text(), s.From)
	}
	l := plan.Layers[0]
	fmt.Println(l.Name, l.Arms, l.Scheme.GroupSize)
	// Output:
	// preset     best                 default
	// target     vllm                 given
	// format     compressed-tensors   target vllm
	// bits       4                    target vllm
	// group_size 128                  target vllm
	// symmetric  true                 target vllm
	// range      zero                 default
	// scale_type bf16                 the model is bfloat16 and stays so
	// min_zero   0                    default
	// clip       false                given
	// model.layers.0.self_attn.q_proj [oc] 128
}

// Rounding to nearest in one axis needs no text.
func ExampleQuantize() {
	dir, err := os.MkdirTemp("", "lowbit-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	report, err := lowbit.Quantize(context.Background(), lowbit.Options{
		Model: "testdata/tinyllama-2m", Output: filepath.Join(dir, "out"),
		Method: quant.RTN{}, Axis: lowbit.AxisOC, Bits: 3, GroupSize: 64,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d layers, %.3f bits a weight\n", len(report.Layers), report.BitsPerWeight)
	// Output: 28 layers, 3.297 bits a weight
}

// Text may come as strings, too.
func ExampleEvaluate() {
	story, err := os.ReadFile("testdata/tinyllama-2m-text/heldout.txt")
	if err != nil {
		log.Fatal(err)
	}
	e, err := lowbit.Evaluate(context.Background(), lowbit.EvalOptions{
		Model: "testdata/tinyllama-2m", Window: 128, Text: lowbit.Text{Strings: []string{string(story[:8000])}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d windows, perplexity %.1f\n", e.Windows, e.Perplexity)
	// Output: 20 windows, perplexity 9.3
}
