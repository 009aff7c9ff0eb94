//go:build unix

// Command large shows time and peak memory of round-to-nearest beside those of reading the
// model and writing as much as the result, in turns. The model is a cut of DeepSeek-V3's
// shape, one block with so many experts of 7168 x 2048 in FP8 with scales of 128 x 128,
// which it makes of random bytes, or any other folder:
//
//	go run ./internal/cmd/large [-experts 256 | -model FOLDER] [-dir DIR] [-runs 5]
//
// It needs 66 MB of disk an expert in DIR, which is the system's for temporary files
// otherwise; nothing is left there.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

const (
	hidden, inner, shared, vocab = 7168, 2048, 1, 1024
	heads, nope, rope, value     = 128, 128, 64, 128
	qRank, kvRank, block         = 1536, 512, 128
)

func main() {
	experts := flag.Int("experts", 256, "experts of the block")
	model := flag.String("model", "", "folder of another model")
	dir := flag.String("dir", os.TempDir(), "folder for the model and what is made of it")
	runs := flag.Int("runs", 5, "of each; medians are printed")
	child := flag.Bool("quantize", false, "")
	flag.Parse()
	var err error
	if *child {
		err = quantize(flag.Arg(0), flag.Arg(1))
	} else {
		err = run(*model, *experts, *runs, *dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "large:", err)
		os.Exit(1)
	}
}

// quantize rounds the model in a folder to 4 bits in groups of 128.
func quantize(model, output string) error {
	_, err := lowbit.Quantize(context.Background(), lowbit.Options{
		Model: model, Output: output, Format: native.Format{}, Method: quant.RTN{}, Arms: []adadim.Arm{adadim.ArmOC()},
	})
	return err
}

func run(model string, experts, runs int, dir string) (err error) {
	work, err := os.MkdirTemp(dir, "lowbit-large-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if model == "" {
		model = filepath.Join(work, "model")
		if err := write(model, experts); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	output := filepath.Join(work, "quantized")
	var took, cpu, peak, bound []float64
	var read, wrote int64
	for range runs {
		c := exec.Command(self, "-quantize", model, output)
		c.Stderr = os.Stderr
		start := time.Now()
		if err := c.Run(); err != nil {
			return err
		}
		took = append(took, time.Since(start).Seconds())
		cpu = append(cpu, (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds())
		peak = append(peak, float64(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)*1024/1e6) // of KiB on Linux
		read, wrote = size(model), size(output)
		if err := os.RemoveAll(output); err != nil {
			return err
		}
		start = time.Now()
		if err := limit(model, filepath.Join(work, "copy"), wrote); err != nil {
			return err
		}
		bound = append(bound, time.Since(start).Seconds())
	}
	fmt.Printf("%.2f GB to %.2f GB in 4 bits: %s s, %s s of processor time, peak memory %.0f MB\n", gb(read), gb(wrote), spread(took), spread(cpu), slices.Max(peak))
	fmt.Printf("reading and writing as much with two threads: %s s; lowbit runs at %.2f of that\n", spread(bound), median(bound)/median(took))
	return nil
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

func spread(v []float64) string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(v), slices.Min(v), slices.Max(v))
}

func gb(n int64) float64 { return float64(n) / 1e9 }

func size(dir string) (n int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if i, err := e.Info(); err == nil {
			n += i.Size()
		}
	}
	return n
}

// write makes the model.
func write(dir string, experts int) error {
	var plan []safetensors.TensorInfo
	add := func(name string, t safetensors.DType, shape ...int) {
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: t, Shape: shape})
	}
	linear := func(name string, out, in int) {
		add("model.layers.0."+name+".weight", safetensors.F8E4M3, out, in)
		add("model.layers.0."+name+".weight_scale_inv", safetensors.F32, (out+block-1)/block, (in+block-1)/block)
	}
	mlp := func(name string, width int) {
		linear(name+".gate_proj", width, hidden)
		linear(name+".up_proj", width, hidden)
		linear(name+".down_proj", hidden, width)
	}
	add("model.embed_tokens.weight", safetensors.BF16, vocab, hidden)
	add("lm_head.weight", safetensors.BF16, vocab, hidden)
	for name, n := range map[string]int{"model.norm": hidden, "model.layers.0.input_layernorm": hidden, "model.layers.0.post_attention_layernorm": hidden,
		"model.layers.0.self_attn.q_a_layernorm": qRank, "model.layers.0.self_attn.kv_a_layernorm": kvRank} {
		add(name+".weight", safetensors.BF16, n)
	}
	linear("self_attn.q_a_proj", qRank, hidden)
	linear("self_attn.q_b_proj", heads*(nope+rope), qRank)
	linear("self_attn.kv_a_proj_with_mqa", kvRank+rope, hidden)
	linear("self_attn.kv_b_proj", heads*(nope+value), kvRank)
	linear("self_attn.o_proj", hidden, heads*value)
	add("model.layers.0.mlp.gate.weight", safetensors.BF16, experts, hidden)
	add("model.layers.0.mlp.gate.e_score_correction_bias", safetensors.F32, experts)
	mlp("mlp.shared_experts", shared*inner)
	for e := range experts {
		mlp(fmt.Sprintf("mlp.experts.%d", e), inner)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{MaxShardBytes: 5e9})
	if err != nil {
		return err
	}
	var seed [32]byte
	random := rand.NewChaCha8(seed)
	noise := make([]byte, 64<<20)
	_, _ = random.Read(noise)
	for i, b := range noise {
		noise[i] = b & 0xBF // codes below 2, and so no NaN
	}
	for _, t := range plan {
		data := make([]byte, t.Size())
		if t.DType == safetensors.F8E4M3 {
			for at := 0; at < len(data); at += len(noise) {
				copy(data[at:], noise)
			}
		} else {
			v := make([]float32, t.Elements())
			for i := range v {
				v[i] = 0.01 + float32(random.Uint64()%1000)/1e5
			}
			if err := safetensors.EncodeFloat32(data, t.DType, v); err != nil {
				return err
			}
		}
		if err := w.WriteTensor(t.Name, data); err != nil {
			w.Abort()
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), config(experts), 0o644)
}

func config(experts int) []byte {
	text, err := json.MarshalIndent(map[string]any{
		"architectures": []string{"DeepseekV3ForCausalLM"}, "model_type": "deepseek_v3", "dtype": "bfloat16", "hidden_act": "silu",
		"hidden_size": hidden, "intermediate_size": 18432, "moe_intermediate_size": inner, "num_hidden_layers": 1, "first_k_dense_replace": 0,
		"n_routed_experts": experts, "n_shared_experts": shared, "num_experts_per_tok": min(8, experts), "n_group": 1, "topk_group": 1,
		"norm_topk_prob": true, "routed_scaling_factor": 2.5, "num_attention_heads": heads, "num_key_value_heads": heads,
		"kv_lora_rank": kvRank, "q_lora_rank": qRank, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "qk_head_dim": nope + rope, "v_head_dim": value,
		"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 4096, "vocab_size": vocab, "tie_word_embeddings": false, "attention_bias": false,
		"quantization_config": map[string]any{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": []int{block, block}},
	}, "", "  ")
	if err != nil {
		panic(err) // of constants
	}
	return text
}

// limit reads the files of a folder and writes n bytes, both at once, to the disk.
func limit(dir, out string, n int64) error {
	var wg sync.WaitGroup
	var readErr, writeErr error
	wg.Add(2)
	go func() {
		defer wg.Done()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		readErr = err
		buf := make([]byte, 1<<20)
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				readErr = err
				return
			}
			for err == nil {
				_, err = f.Read(buf)
			}
			if readErr = f.Close(); !errors.Is(err, io.EOF) || readErr != nil {
				readErr = errors.Join(err, readErr)
				return
			}
		}
	}()
	go func() {
		defer wg.Done()
		f, err := os.Create(out)
		if err != nil {
			writeErr = err
			return
		}
		buf := make([]byte, 1<<20)
		for left := n; left > 0 && err == nil; left -= int64(len(buf)) {
			_, err = f.Write(buf[:min(left, int64(len(buf)))])
		}
		writeErr = errors.Join(err, f.Sync(), f.Close())
	}()
	wg.Wait()
	return errors.Join(readErr, writeErr)
}
