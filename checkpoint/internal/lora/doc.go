// Package lora reads a LoRA adapter in the layout of Hugging Face's PEFT and
// merges it onto a base model while that is read:
//
//	adapter_config.json                     r, lora_alpha, patterns, the base's name
//	adapter_model.safetensors (or .bin)
//	  base_model.model.X.lora_A.weight      [r, in]
//	  base_model.model.X.lora_B.weight      [out, r]
//	  base_model.model.X.lora_embedding_A   [r, tokens]
//	  base_model.model.X.lora_embedding_B   [width, r]
//	  base_model.model.X.weight, .bias      takes the base's place (modules_to_save, bias)
//
//	W' = W + s·B·A,   s = lora_alpha/r, or lora_alpha/√r with use_rslora
//
// The sum is made in float32 and not rounded to the base's type. Variants whose
// merge is another one (DoRA and others) are refused by the name of the key
// that asks for them.
//
// Sources: peft/tuners/lora/{config,layer,model}.py and
// peft/utils/{other,save_and_load}.py of peft 0.21; Hu et al., LoRA,
// arXiv:2106.09685; Kalajdzievski, rsLoRA, arXiv:2312.03732.
package lora
