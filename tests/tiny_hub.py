"""Models of a few kilobytes for each task of a hub, with random weights, saved as transformers saves them.

A program for an environment with torch, transformers and pillow: ``python tiny_hub.py FOLDER`` writes a folder for each,
where diffusers is there two that draw, too: one whose safety checker holds everything back.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CLASSES = {0: "negative", 1: "neutral", 2: "positive"}
KINDS = {0: "O", 1: "B-PER", 2: "B-LOC"}


def tokenizer(pad: str = "[PAD]") -> Any:
    """Bytes as tokens, texts begun with [CLS] and ended with [SEP]."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {one: number for number, one in enumerate([pad, "[UNK]", "[CLS]", "[SEP]", *letters])}
    inner = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]",
        model_max_length=256,
    )  # fmt: skip


def labelled(names: dict[int, str]) -> dict[str, Any]:
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def texts(folder: Path) -> None:
    words = tokenizer()
    bert = {**SMALL, "vocab_size": len(words), "max_position_embeddings": 256}

    def save(name: str, model: Any) -> None:
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)

    save("classify", t.BertForSequenceClassification(t.BertConfig(**bert, **labelled(CLASSES))))
    entails = {0: "contradiction", 1: "neutral", 2: "entailment"}
    save("sort", t.BertForSequenceClassification(t.BertConfig(**bert, **labelled(entails))))
    save("entities", t.BertForTokenClassification(t.BertConfig(**bert, **labelled(KINDS))))
    save("answer", t.BertForQuestionAnswering(t.BertConfig(**bert)))
    save("embed", t.BertModel(t.BertConfig(**bert)))
    normal = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    (folder / "embed" / "modules.json").write_text(json.dumps([normal]))
    t5 = t.T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    save("rewrite", t.T5ForConditionalGeneration(t5))
    config = json.loads((folder / "rewrite" / "config.json").read_text())
    config["task_specific_params"] = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    (folder / "rewrite" / "config.json").write_text(json.dumps(config))


def pictures(folder: Path) -> None:
    vit = t.ViTConfig(**SMALL, image_size=32, patch_size=8, **labelled({0: "cat", 1: "dog"}))
    t.ViTForImageClassification(vit).save_pretrained(folder / "classify-image")
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "classify-image")
    yolos = t.YolosConfig(
        **SMALL, image_size=[64, 64], patch_size=16, num_detection_tokens=5, **labelled({0: "cup", 1: "pen"})
    )
    t.YolosForObjectDetection(yolos).save_pretrained(folder / "detect")
    size = {"shortest_edge": 64, "longest_edge": 64}
    t.YolosImageProcessor(size=size).save_pretrained(folder / "detect")


def sounds(folder: Path) -> None:
    """One that writes letters down as it hears them (CTC), and one of Whisper's kind that knows two languages."""
    listen = folder / "transcribe"
    listen.mkdir()
    signs = {one: number for number, one in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"])}
    (listen / "vocab.json").write_text(json.dumps(signs))
    t.Wav2Vec2CTCTokenizer(str(listen / "vocab.json")).save_pretrained(listen)
    t.Wav2Vec2FeatureExtractor().save_pretrained(listen)
    config = t.Wav2Vec2Config(
        **SMALL, vocab_size=len(signs), conv_dim=(16, 16), conv_stride=(5, 64), conv_kernel=(10, 64),
        num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    t.Wav2Vec2ForCTC(config).save_pretrained(listen)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = t.WhisperTokenizer(
        vocab={one: number for number, one in enumerate([*letters, "<|endoftext|>"])}, merges=[]
    )
    marks = [
        "<|startoftranscript|>",
        "<|en|>",
        "<|de|>",
        "<|translate|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    words.add_special_tokens({"additional_special_tokens": marks})
    at = words.convert_tokens_to_ids
    whisper = t.WhisperConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80, max_target_positions=64,
        decoder_start_token_id=at(marks[0]), eos_token_id=at("<|endoftext|>"), pad_token_id=at("<|endoftext|>"),
        bos_token_id=at("<|endoftext|>"), suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = t.WhisperForConditionalGeneration(whisper)
    said = {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": at("<|en|>"), "<|de|>": at("<|de|>")},
        "task_to_id": {"translate": at("<|translate|>"), "transcribe": at("<|transcribe|>")},
        "no_timestamps_token_id": at("<|notimestamps|>"),
        "max_length": 24,
        "_from_model_config": False,
    }
    for name, value in said.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder / "translate")
    words.save_pretrained(folder / "translate")
    t.WhisperFeatureExtractor().save_pretrained(folder / "translate")


def drawings(folder: Path) -> None:
    import diffusers as d
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    words = tokenizer()
    text = t.CLIPTextConfig(
        **SMALL, vocab_size=len(words), max_position_embeddings=256, projection_dim=16, eos_token_id=3
    )
    unet = d.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), mid_block_type=None, cross_attention_dim=16, attention_head_dim=2,
        norm_num_groups=4,
    )  # fmt: skip
    vae = d.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    parts = {"vae": vae, "text_encoder": t.CLIPTextModel(text), "tokenizer": words, "unet": unet}
    parts["scheduler"] = d.DDIMScheduler(clip_sample=False)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    d.StableDiffusionPipeline(**parts, **none).save_pretrained(folder / "draw")
    looks = t.CLIPConfig(vision_config={**SMALL, "image_size": 32, "patch_size": 8}, projection_dim=16)
    checker = StableDiffusionSafetyChecker(looks)
    torch.nn.init.constant_(checker.concept_embeds_weights, -10)
    sees = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    held = d.StableDiffusionPipeline(**parts, safety_checker=checker, feature_extractor=sees)
    held.save_pretrained(folder / "hold-back")
    index = folder / "hold-back" / "model_index.json"  # as older repositories name it
    index.write_text(
        index.read_text()
        .replace("CLIPImageProcessorPil", "CLIPFeatureExtractor")
        .replace("CLIPImageProcessor", "CLIPFeatureExtractor")
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    to = Path(sys.argv[1])
    to.mkdir(parents=True, exist_ok=True)
    texts(to)
    sounds(to)
    if "--no-pictures" not in sys.argv:
        pictures(to)
    if importlib.util.find_spec("diffusers"):
        drawings(to)
