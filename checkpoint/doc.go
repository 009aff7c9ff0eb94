// Package checkpoint writes quantized weights in the layouts that inference
// engines read, and reads them back.
//
// A [Model] is an opened model: a dense Hugging Face folder or a quantized
// checkpoint in any format of [Formats], or one that is only read (mlx). It
// hands out dense tensors, packed weights, and dequantized matrices by their
// Hugging Face names, whatever files they come from: safetensors, PyTorch's,
// Mistral's and Meta's consolidated ones, a LoRA adapter merged into its base
// ([OpenAdapter]). Each kind of files is an opener in open.go.
//
// A [Writer] makes a model from a source model and quantized layers. It is
// complete under its final name or not there at all, and an interrupted one
// can be resumed.
//
// # Adding a format
//
// A format is a folder under formats, with its test, and one line in [Formats].
// It may also live outside this module: [WriterOptions].Format is a value, and
// [Open] and [Lookup] take further formats.
//
// It implements layout.Format and one of two interfaces of package layout:
//
//   - Folder, for tensors in the safetensors files of a folder. Check says,
//     before any work is done, whether the format holds a layer; its errors wrap
//     layout.ErrUnsupported and suggest what to change. Plan names the tensors
//     a layer will become, from the description alone: the writer lays out the
//     files from it and then writes layers to their places concurrently, so
//     Encode must return exactly what Plan announced. Dequantizing what Encode
//     packs must give what quant.Weight.Dequantize gives. Config returns what
//     belongs in config.json and beside it. A Folder that is read back is a
//     Reader too: Detect looks at the quantization_config of a config.json,
//     Open finds the layers and returns a Decoder.
//   - File, for a model in one file, such as GGUF: Read and Write do the whole
//     model, which they see as an Origin.
//
// What the engines that read the format take is said by its Advisor.
//
// Everything that comes from a file is hostile: a Decoder checks dtypes,
// shapes and value ranges before it uses them (Want and the Read functions of
// package layout say file, tensor, expected and found), never allocates by a
// number it has not compared with the size of a tensor, and ends with
// quant.Weight.Validate.
//
// The writer keeps finished layers in the format of package native until the
// model is put together, whatever format it will have.
package checkpoint
