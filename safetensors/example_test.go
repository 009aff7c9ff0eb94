package safetensors_test

import (
	"fmt"
	"log"
	"os"

	"github.com/golowbit/lowbit/safetensors"
)

// A model is written in two shards and read back.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	w, err := safetensors.NewWriter(dir, []safetensors.TensorInfo{
		{Name: "proj.weight", DType: safetensors.BF16, Shape: []int{2, 3}},
		{Name: "proj.bias", DType: safetensors.F32, Shape: []int{2}},
	}, safetensors.Options{MaxShardBytes: 16})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Abort()
	if err := w.WriteFloat32("proj.bias", []float32{0.5, -0.5}); err != nil {
		log.Fatal(err)
	}
	if err := w.WriteFloat32("proj.weight", []float32{1, 2, 3, 4, 5, 6}); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	model, err := safetensors.OpenFolder(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	for _, name := range model.Names() {
		info, _ := model.Info(name)
		values, err := model.ReadFloat32(name, nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.File, name, info.DType, info.Shape, values)
	}
	// Output:
	// model-00001-of-00002.safetensors proj.weight BF16 [2 3] [1 2 3 4 5 6]
	// model-00002-of-00002.safetensors proj.bias F32 [2] [0.5 -0.5]
}
