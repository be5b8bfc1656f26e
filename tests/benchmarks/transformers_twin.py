"""The joint model assembled from Hugging Face transformers: its Conformer and its Llama, with our own inputs and heads.

`Assembled` is the plain PyTorch `Twin` with encoder and LM replaced, so that features and losses are the twin's.
Options of transformers are set to match ours where they exist. What still differs:

- Conformer: BatchNorm in the convolution module, which also includes padding; rotary positions applied before the
  projections to queries and keys; biases in attention, none in pointwise convolutions; dropout of the encoder's input,
  and a norm after the last layer.
- Llama: with gated GELU it is our decoder, parameter for parameter.
"""

from __future__ import annotations

import torch
from benchmarks.torch_twin import Decoder, Masked, Subsampling, Twin, masked, specaugment
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from spectron.config import ConformerConfig, Experiment, LMConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Statistics


class ConformerHalf(nn.Module):
    """Normalised log-mel [B, T, F] → [B, ~T/4, D]: the twin's subsampling, then transformers' Conformer layers."""

    def __init__(self, c: ConformerConfig, bands: int, attention: str) -> None:
        super().__init__()
        self.specaugment = c.specaugment
        self.subsampling = Subsampling(bands, c.conv_channels, c.dim)
        self.body = Wav2Vec2ConformerEncoder(
            Wav2Vec2ConformerConfig(
                hidden_size=c.dim,
                num_hidden_layers=c.num_layers,
                num_attention_heads=c.num_heads,
                intermediate_size=c.dim * c.ff_multiple,
                conv_depthwise_kernel_size=c.kernel_size,
                hidden_act="silu",
                position_embeddings_type="rotary",
                rotary_embedding_base=int(c.rope_base),
                hidden_dropout=c.dropout,
                activation_dropout=c.dropout,
                attention_dropout=c.dropout,
                conformer_conv_dropout=c.dropout,
                layerdrop=0.0,
                attn_implementation=attention,
            )
        )
        del self.body.pos_conv_embed  # made but never called: parameters that no gradient reaches
        for layer in self.body.layers:
            layer.self_attn.dropout.p = (
                0.0  # of attention weights; one number sets it and the residual's, which we have
            )

    def forward(self, x: Tensor, mask: Tensor) -> Masked:
        if self.training:
            x = specaugment(x, mask, self.specaugment)
        x, mask = self.subsampling(x, mask)
        return masked(self.body(x, attention_mask=mask).last_hidden_state, mask), mask


class LlamaHalf(nn.Module):
    """The LM as the twin calls its own: `embedding`, hidden states, `head`, `score`."""

    def __init__(self, c: LMConfig, vocabulary: int, attention: str) -> None:
        super().__init__()
        if c.dropout:
            raise ValueError(f"model.lm.dropout is {c.dropout}: Llama's layers have none.")
        self.body = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=c.dim,
                intermediate_size=c.ff_dim,
                num_hidden_layers=c.num_layers,
                num_attention_heads=c.num_heads,
                num_key_value_heads=c.num_kv_heads,
                hidden_act="gelu_pytorch_tanh",
                rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
                tie_word_embeddings=c.tie_embeddings,
                use_cache=False,  # on by default, in training too
                attn_implementation=attention,
            )
        )
        self.additive = attention == "eager"

    def embedding(self, tokens: Tensor) -> Tensor:
        """Token ids → vectors."""
        return self.body.model.embed_tokens(tokens)

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states → vocabulary logits."""
        return self.body.lm_head(hidden)

    def forward(self, x: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        mask = visible[:, None]
        if self.additive:  # eager attention adds what it is given, a bool as 0 and 1
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(x.dtype).min)
        return self.body.model(inputs_embeds=x, attention_mask=mask, position_ids=positions).last_hidden_state

    score = Decoder.score


class Assembled(Twin):
    """The twin with both halves from transformers. attention: "eager" or "sdpa"."""

    def __init__(self, experiment: Experiment, statistics: Statistics, attention: str) -> None:
        super().__init__(experiment, statistics)
        model, vocabulary = experiment.model, make_vocabulary(experiment.data.vocabulary)
        self.encoder = ConformerHalf(model.encoder, experiment.features.num_mels, attention)
        self.lm = LlamaHalf(model.lm, vocabulary.size, attention)
