// Package checkpoint writes quantized weights in the layouts that inference
// engines read, and reads them back.
//
// A [Model] is an opened model: a dense Hugging Face folder or a quantized
// checkpoint in any registered format. It hands out dense tensors, packed
// weights, and dequantized matrices by their Hugging Face names.
//
// A [Writer] makes a model from a source model and quantized layers. It is
// complete under its final name or not there at all, and an interrupted one
// can be resumed.
//
// # Adding a format
//
// A format is a type that implements [Format], listed in the formats function
// in formats.go. It lives in one file, named after it, with its test beside it:
//
//   - Check says, before any work is done, whether the format can hold a layer.
//     Its errors wrap [ErrUnsupported] and suggest what to change.
//   - Plan names the tensors a layer will become, with types and shapes, from
//     the [Layer] alone. The writer lays out the files from it and then writes
//     layers to their places concurrently, so Encode must return exactly what
//     Plan announced.
//   - Encode packs one layer. Dequantizing what it returns must give the
//     weight that quant.Weight.Dequantize gives.
//   - Config returns what belongs in config.json and beside it.
//   - Detect and Open read: Detect looks at the quantization_config of a
//     config.json, Open finds the layers and returns a [Decoder].
//
// A format that is no folder of safetensors files (GGUF) also implements
// [Assembler], which writes the whole model, and, where it is recognized by
// the file rather than by config.json, [Container].
//
// The writer keeps finished layers in the format named "lowbit" until the
// model is put together, whatever the format it will have, so that nothing
// but Assembler and Encode differs between formats.
//
// Everything that comes from a file is hostile: a Decoder checks dtypes,
// shapes and value ranges before it uses them (the helpers in source.go say
// file, tensor, expected and found), never allocates by a number it has not
// compared with the size of a tensor, and ends with quant.Weight.Validate.
package checkpoint
