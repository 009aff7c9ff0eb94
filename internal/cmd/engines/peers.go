package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/verified"
	"github.com/golowbit/lowbit/tensor"
)

// peer is a tool that writes quantized models, which lowbit reads.
type peer struct {
	name   string // for -only
	env    string // engines/ENV.txt
	script string
	within float64 // bound of the difference of logits, by what the tool computes in
	named  bool    // runs only if named
}

// Bounds of differences from what computes in half floats and in bfloat16.
const (
	halves    = 0.02
	bfloat16s = 0.12
)

var allPeers = []peer{
	{name: "from-gptqmodel", env: "gptqmodel", script: "engines/peer_gptqmodel.py", within: halves, named: true},
	{name: "from-hqq", env: "transformers4", script: "engines/peer_hqq.py", within: exact},
	{name: "from-mlx", env: "mlx", script: "engines/peer_mlx.py", within: exact},
	{name: "from-llmcompressor", env: "llmcompressor", script: "engines/peer_llmcompressor.py", within: halves, named: true},
	{name: "from-autoround", env: "autoround", script: "engines/peer_autoround.py", within: bfloat16s, named: true},
}

// peer has a tool quantize the embedded model, and returns what lowbit does not
// read to the tool's own logits, or does not convert.
func (b *bench) peer(ctx context.Context, p peer) (wrong []string, err error) {
	python, err := environment(ctx, b.cache, p.env)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	source, err := filepath.Abs(filepath.Join("testdata", embedded))
	if err != nil {
		return nil, err
	}
	ids, err := tokens(filepath.Join("testdata", embedded))
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(b.work, p.name)
	file := out + "-ids.json"
	if err := errors.Join(os.Mkdir(out, 0o755), os.WriteFile(file, data, 0o600)); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, p.script, source, filepath.Join("testdata", embedded+"-text", "calibration.txt"), file, out)
	cmd.WaitDelay = 10 * time.Second
	said, failed := cmd.CombinedOutput()
	replies, err := os.ReadFile(filepath.Join(out, "replies.jsonl"))
	if failed != nil || err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w\n%s", cmd, failed, tail(said)), err)
	}
	fmt.Printf("\n%s: %.0f s\n%-40s %9s %9s\n", p.name, time.Since(start).Seconds(), "file", "diff/std", "KL")
	for line := range bytes.Lines(replies) {
		var r struct {
			Name string `json:"name"`
			reply
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", p.script, err)
		}
		v := verified.Result{Error: r.Error}
		if v.Error == "" {
			if err := read(ctx, filepath.Join(out, r.Name), ids, &v); err != nil {
				v.Error = err.Error()
			}
		}
		if v.Error == "" && v.Difference > p.within {
			v.Error = fmt.Sprintf("difference %.2g, want at most %.2g", v.Difference, p.within)
		}
		fmt.Printf("%-40s %9.2g %9.2g %v %s\n", r.Name, v.Difference, v.KL, r.Versions, v.Error)
		b.peers++
		if v.Error != "" {
			wrong = append(wrong, fmt.Sprintf("%s %s: %s", p.name, r.Name, v.Error))
		}
	}
	return wrong, nil
}

// read compares lowbit's logits of a tool's folder with the tool's, and those of
// the folder converted.
func read(ctx context.Context, folder string, ids [][]int32, v *verified.Result) error {
	ours, err := logits(ctx, folder, ids)
	if err != nil {
		return err
	}
	if err := measure(v, &written{logits: ours}, folder+".f32"); err != nil {
		return err
	}
	again, name, err := converted(ctx, folder, ids)
	if err != nil {
		return err
	}
	// Format dense rounds the weights to the model's type.
	var d verified.Result
	if compare(&d, ours, again); d.Difference > bfloat16s || name == "lowbit" && d.Difference > 0 {
		return fmt.Errorf("converted to format %s, its logits differ by %.2g", name, d.Difference)
	}
	return nil
}

// converted are the logits of a folder in lowbit's own format, or where that does
// not hold it (zero-points between two codes) dequantized.
func converted(ctx context.Context, folder string, ids [][]int32) (l *tensor.Matrix, name string, err error) {
	for _, name = range []string{"lowbit", "dense"} {
		format, err := checkpoint.Lookup(name)
		if err != nil {
			return nil, "", err
		}
		out := folder + "-" + name
		err = lowbit.Convert(ctx, lowbit.ConvertOptions{Model: folder, Output: out, Format: format})
		if name == "lowbit" && (errors.Is(err, layout.ErrUnsupported) || errors.Is(err, layout.ErrNotWeight)) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		l, err = logits(ctx, out, ids)
		return l, name, err
	}
	return nil, "", nil
}
