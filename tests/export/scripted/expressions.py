"""What people's policies call, as lines of Python over ``h [N, 6]`` that give ``y [N, 6]``: the table of operators.

``w`` is a parameter ``[6, 6]`` that requires grad, ``b`` a buffer ``[6]`` of whole numbers 0 to 5; ``x [N, 4]`` is the
observation itself. Parts that are modules stand in ``PARTS`` and are reached as ``self.<name>``.
"""

from collections.abc import Mapping

from tests.export.scripted.numberwise import ACTIVATIONS, IN_PLACE, NUMBERS, REDUCTIONS

# Layers, by the name of the attribute that they become.
PARTS: Mapping[str, str] = {
    "batch_norm": "nn.BatchNorm1d(6)",
    "batch_norm2d": "nn.BatchNorm2d(2)",
    "layer_norm": "nn.LayerNorm(6)",
    "group_norm": "nn.GroupNorm(2, 6)",
    "instance_norm": "nn.InstanceNorm1d(2, affine=True, track_running_stats=True)",
    "rms_norm": "nn.RMSNorm(6)",
    "prelu": "nn.PReLU(6)",
    "embedding": "nn.Embedding(8, 6)",
    "conv1d": "nn.Conv1d(2, 2, 3, padding=1)",
    "conv2d": "nn.Conv2d(1, 2, 3, padding='same')",
    "conv3d": "nn.Conv3d(1, 1, 1)",
    "conv_reflect": "nn.Conv1d(2, 2, 3, padding=1, padding_mode='reflect')",
    "conv_transpose1d": "nn.ConvTranspose1d(2, 2, 3, padding=1)",
    "conv_transpose2d": "nn.ConvTranspose2d(1, 1, 3, padding=1)",
    "lstm": "nn.LSTM(3, 6, batch_first=True)",
    "gru": "nn.GRU(3, 6, num_layers=2, batch_first=True)",
    "rnn": "nn.RNN(3, 6, batch_first=True)",
    "rnn_relu": "nn.RNN(3, 6, nonlinearity='relu')",
    "lstm_cell": "nn.LSTMCell(6, 6)",
    "gru_cell": "nn.GRUCell(6, 6)",
    "rnn_cell": "nn.RNNCell(6, 6)",
    "attention": "nn.MultiheadAttention(6, 2, batch_first=True)",
    "encoder": "nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)",
    "encoder_first": "nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, norm_first=True, activation='gelu')",
    "bilinear": "nn.Bilinear(6, 6, 6)",
    "layers": "nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])",
    "named": "nn.ModuleDict({'a': nn.Linear(6, 6), 'b': nn.Tanh()})",
    "dropout": "nn.Dropout(0.5)",
}

NORMALISATIONS: Mapping[str, str] = {
    "normalize": "y = F.normalize(h, dim=-1)",
    "normalize_p1": "y = F.normalize(h, p=1.0, dim=1, eps=1e-6)",
    "layer_norm": "y = self.layer_norm(h)",
    "layer_norm_functional": "y = F.layer_norm(h, [6])",
    "group_norm": "y = self.group_norm(h)",
    "group_norm_functional": "y = F.group_norm(h, 3)",
    "instance_norm": "y = self.instance_norm(h.view(-1, 2, 3)).flatten(1)",
    "batch_norm": "y = self.batch_norm(h)",
    "batch_norm2d": "y = self.batch_norm2d(h.view(-1, 2, 3, 1)).flatten(1)",
    "rms_norm": "y = self.rms_norm(h)",
    "by_hand": "y = (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-5)",
    "by_hand_var": "y = (h - h.mean(dim=1, keepdim=True)) * torch.rsqrt(h.var(1, unbiased=False, keepdim=True) + 1e-5)",
    "weight": "y = F.linear(h, F.normalize(self.w, dim=1))",
    "cosine_similarity": "y = F.cosine_similarity(h.unsqueeze(1), self.w.unsqueeze(0), dim=-1)",
    "pairwise_distance": "y = h * F.pairwise_distance(h, h.flip(1)).unsqueeze(1)",
    "cdist": "y = torch.cdist(h, self.w)",
    "local_response_norm": "y = F.local_response_norm(h.view(-1, 6, 1, 1), 2).flatten(1)",
}

LAYERS: Mapping[str, str] = {
    "embedding": "y = self.embedding(x[:, 0].clamp(0, 7).long())",
    "embedding_functional": "y = F.embedding(x[:, 0].clamp(0, 5).to(torch.int64), self.w)",
    "one_hot": "y = F.one_hot(x[:, 0].clamp(0, 5).long(), 6).float()",
    "bilinear": "y = self.bilinear(h, h)",
    "linear": "y = F.linear(h, self.w, self.w[0])",
    "conv1d": "y = self.conv1d(h.view(-1, 2, 3)).flatten(1)",
    "conv2d": "y = self.conv2d(h.view(-1, 1, 1, 3, 2)[:, 0]).mean(1).flatten(1)",
    "conv2d_functional": "y = F.conv2d(h.view(-1, 1, 2, 3), self.w.view(4, 1, 3, 3)[:1], padding=1).flatten(1)",
    "conv3d": "y = self.conv3d(h.view(-1, 1, 1, 2, 3)).flatten(1)",
    "conv_reflect": "y = self.conv_reflect(h.view(-1, 2, 3)).flatten(1)",
    "conv_transpose1d": "y = self.conv_transpose1d(h.view(-1, 2, 3)).flatten(1)",
    "conv_transpose2d": "y = self.conv_transpose2d(h.view(-1, 1, 2, 3)).flatten(1)",
    "lstm": "y = self.lstm(h.view(-1, 2, 3))[0][:, -1]",
    "lstm_hidden": "o, (hidden, cell) = self.lstm(h.view(-1, 2, 3))\ny = hidden[-1] + cell[0]",
    "gru": "o, hidden = self.gru(h.view(-1, 2, 3))\ny = o[:, -1] + hidden[0]",
    "rnn": "o, hidden = self.rnn(h.view(-1, 2, 3))\ny = o[:, -1]",
    "rnn_relu": "o, hidden = self.rnn_relu(h.view(-1, 2, 3).transpose(0, 1))\ny = hidden[0]",
    "lstm_cell": "a, c = self.lstm_cell(h, (h * 0.5, h - 1.0))\ny = a + c",
    "lstm_cell_zero": "a, c = self.lstm_cell(h)\ny = a + c",
    "gru_cell": "y = self.gru_cell(h, h * 0.5)",
    "rnn_cell": "y = self.rnn_cell(h, h * 0.5)",
    "sdpa": "q = h.view(-1, 2, 3)\ny = F.scaled_dot_product_attention(q, q, q).flatten(1)",
    "sdpa_causal": "q = h.view(-1, 2, 3)\ny = F.scaled_dot_product_attention(q, q * 2.0, q, is_causal=True).flatten(1)",
    "attention": "q = torch.stack([h, h * 2.0, h - 1.0], dim=1)\ny = self.attention(q, q, q)[0].mean(1)",
    "attention_mask": (
        "q = torch.stack([h, h * 2.0, h - 1.0], dim=1)\n"
        "m = torch.triu(torch.ones(3, 3), diagonal=1) > 0\n"
        "y = self.attention(q, q, q, attn_mask=m, need_weights=False)[0][:, -1]"
    ),
    "encoder": "y = self.encoder(torch.stack([h, h * 2.0], dim=1))[:, 0]",
    "encoder_first": "y = self.encoder_first(torch.stack([h, h * 2.0], dim=1)).mean(1)",
    "pad": "y = F.pad(h, (1, 1))[:, 1:7]",
    "pad_replicate": "y = F.pad(h.view(-1, 2, 3), (1, 1), mode='replicate')[:, :, 2:].flatten(1)",
    "pad_circular": "y = F.pad(h.view(-1, 2, 3), (1, 0), mode='circular')[:, :, :3].flatten(1)",
    "unfold": "y = F.unfold(h.view(-1, 1, 2, 3), (2, 2)).flatten(1)[:, :6]",
    "tensor_unfold": "y = h.unfold(1, 2, 1).sum(-1).repeat(1, 2)[:, :6]",
    "interpolate": "y = F.interpolate(h.view(-1, 2, 3), scale_factor=2.0, mode='nearest').flatten(1)[:, ::2]",
    "interpolate_size": (
        "y = F.interpolate(h.view(-1, 1, 2, 3), size=(2, 3), mode='bilinear', align_corners=False).flatten(1)"
    ),
    "pixel_shuffle": "y = F.pixel_shuffle(torch.cat([h, h], 1).view(-1, 4, 1, 3), 2).flatten(1)[:, 3:9]",
    "avg_pool": "y = F.avg_pool1d(torch.cat([h, h], dim=1).unsqueeze(1), 2).flatten(1)",
    "avg_pool2d": "y = F.avg_pool2d(h.view(-1, 1, 2, 3), 3, 1, 1).flatten(1)",
    "max_pool1d": "y = F.max_pool1d(torch.cat([h, h], dim=1).unsqueeze(1), 2).flatten(1)",
    "max_pool2d": "y = F.max_pool2d(h.view(-1, 1, 2, 3), 3, 1, 1).flatten(1)",
    "max_pool3d": "y = F.max_pool3d(h.view(-1, 1, 1, 2, 3), 1).flatten(1)",
    "adaptive_avg_pool1d": "y = h + F.adaptive_avg_pool1d(h.unsqueeze(1), 1).flatten(1)",
    "adaptive_avg_pool2d": "y = h + F.adaptive_avg_pool2d(h.view(-1, 1, 2, 3), (1, 1)).flatten(1)",
    "adaptive_max_pool2d": "y = h + F.adaptive_max_pool2d(h.view(-1, 1, 2, 3), (1, 1)).flatten(1)",
    "module_list": "y = h\nfor layer in self.layers:\n    y = torch.relu(layer(y))",
    "module_dict": "y = self.named['b'](self.named['a'](h))",
    "affine": "y = torch.addmm(self.w[0], h, self.w.t())",
}

SHAPES: Mapping[str, str] = {
    "view": "y = h.view(-1, 2, 3).reshape(-1, 6).view(h.size(0), 6).view(h.shape)",
    "view_shape": "n, d = h.shape\ny = h.view(n, d // 2, 2).reshape(n, -1)",
    "view_as": "y = h.view(-1, 3, 2).view_as(h.view(-1, 3, 2)).reshape_as(h)",
    "flatten": "y = torch.flatten(h.view(-1, 2, 3), 1) + h.view(-1, 2, 3).flatten(start_dim=1, end_dim=-1)",
    "unflatten": "y = h.unflatten(1, (2, 3)).flatten(1)",
    "squeeze": "y = h.unsqueeze(0).unsqueeze(-1).squeeze(0).squeeze(-1)",
    "transpose": "y = h.t().t() + h.transpose(0, 1).transpose(1, 0) + h.T.T + h.mT.mT",
    "permute": "y = h.view(-1, 2, 3).permute(0, 2, 1).contiguous().view(-1, 6)",
    "movedim": "y = h.view(-1, 2, 3).movedim(1, 2).flatten(1) + torch.swapaxes(h.view(-1, 2, 3), 1, 2).flatten(1)",
    "swapdims": "y = h.view(-1, 2, 3).swapdims(1, 2).reshape(-1, 6)",
    "expand": "y = h[:, :1].expand(-1, 6) + self.w[0].expand_as(h) + self.w[1].expand(h.shape[0], 6)",
    "broadcast_to": "y = torch.broadcast_to(self.w[0], h.shape) + h",
    "broadcast_tensors": "a, c = torch.broadcast_tensors(h, self.w[:1])\ny = a + c",
    "repeat": "y = h[:, :2].repeat(1, 3) + self.w[0].repeat(h.shape[0], 1)",
    "tile": "y = torch.tile(h[:, :2], (1, 3))",
    "repeat_interleave": "y = h[:, :2].repeat_interleave(3, dim=1) + torch.repeat_interleave(h[:, :3], 2, dim=1)",
    "roll": "y = torch.roll(h, 1, dims=1) + h.roll(shifts=-2, dims=-1)",
    "flip": "y = h.flip(1) + torch.flip(h, dims=[-1]) + torch.fliplr(h)",
    "rot90": "y = torch.rot90(h.view(-1, 2, 3), 1, [1, 2]).flatten(1)",
    "split": "a, c, d = torch.split(h, 2, dim=1)\ny = torch.cat([d, c, a], dim=1)",
    "split_sizes": "a, c = h.split([2, 4], dim=-1)\ny = torch.cat((c, a), -1)",
    "chunk": "a, c = h.chunk(2, dim=1)\ny = torch.cat([c * torch.sigmoid(a), a], 1)",
    "tensor_split": "a, c = torch.tensor_split(h, 2, dim=1)\ny = torch.cat([c, a], 1)",
    "unbind": (
        "parts = h.unbind(1)\ny = torch.stack([parts[1], parts[0], parts[2], parts[3], parts[5], parts[4]], dim=1)"
    ),
    "stack": "y = torch.stack([h, h * 2.0], dim=1).sum(1) + torch.stack((h, h)).mean(0)",
    "hstack": "y = torch.hstack([h[:, :2], h[:, 2:]]) + torch.vstack([h.t()]).t()",
    "column_stack": "y = torch.column_stack([h[:, 0], h[:, 1:]]) + torch.dstack([h, h])[..., 0]",
    "concat": "y = torch.concat([h[:, :3], h[:, 3:]], dim=1) + torch.concatenate([h[:, :1], h[:, 1:]], dim=1)",
    "narrow": "y = torch.cat([h.narrow(1, 2, 4), h.narrow(1, 0, 2)], 1)",
    "select": "y = h.select(1, 0).unsqueeze(1) * h",
    "slice": "y = torch.cat([h[:, ::2], h[:, 1::2]], 1) + torch.cat([h[..., -1:], h[:, :-1]], dim=-1)",
    "index_none": "y = h[:, None, :].squeeze(1) + h[..., None][..., 0]",
    "index_list": "y = h[:, [5, 4, 3, 2, 1, 0]]",
    "index_tensor": "y = h[:, self.b]",
    "index_rows": "y = self.w[x[:, 0].clamp(0, 5).long()]",
    "index_select": "y = torch.index_select(h, 1, self.b)",
    "gather": "y = h.gather(1, torch.argsort(h, dim=1)) + torch.gather(h, 1, self.b.unsqueeze(0).expand_as(h))",
    "take_along": "y = torch.take_along_dim(h, torch.argsort(h, dim=1), dim=1)",
    "scatter": "y = torch.zeros_like(h).scatter(1, h.argmax(1, keepdim=True), 1.0)",
    "scatter_tensor": "y = h.scatter(1, self.b.unsqueeze(0).expand_as(h), h * 2.0)",
    "scatter_add": "y = torch.zeros_like(h).scatter_add(1, self.b.unsqueeze(0).expand_as(h), h)",
    "index_add": "y = torch.zeros_like(h).index_add(1, self.b, h)",
    "index_copy": "y = torch.zeros_like(h).index_copy(1, self.b, h)",
    "index_fill": "y = h.index_fill(1, self.b[:2], 0.5)",
    "zeros_like": "y = h + torch.zeros_like(h) + torch.ones_like(h) + torch.full_like(h, 2.0)",
    "new": "y = h + h.new_zeros(h.shape) + h.new_full((1, 6), 2.0) + h.new_ones(6) + h.new_zeros(1, 6)",
    "zeros": "y = h + torch.zeros(1, 6) + torch.ones(6) + torch.full((6,), 0.5) + torch.empty_like(h).fill_(1.0)",
    "arange": "y = h * torch.arange(6) + torch.arange(0, 6, dtype=torch.float32) + torch.arange(1.0, 7.0, 1.0)",
    "linspace": "y = h * torch.linspace(-1.0, 1.0, 6)",
    "eye": "y = h @ torch.eye(6) + h @ torch.eye(6, 6) + h @ torch.diag_embed(self.w[0])",
    "tril": "y = h @ torch.tril(self.w) + h @ torch.triu(self.w, diagonal=1)",
    "tensor": "y = h * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) + torch.tensor(2.0)",
    "as_tensor": "y = h * torch.as_tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])",
    "meshgrid": "a, c = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing='ij')\ny = h + (a + c).flatten()",
    "chunk_loop": "y = torch.cat([part * 2.0 for part in h.chunk(3, dim=1)], dim=1)",
    "device": "y = h + torch.zeros(6, device=h.device, dtype=h.dtype) + torch.ones(h.shape[1]).to(h.device)",
    "dim": "y = h.unsqueeze(1).flatten(1) if h.dim() == 2 else h",
    "masks": "m = torch.ones_like(h, dtype=torch.bool)\ny = h.masked_fill(~m, 0.0)",
    "pixel": "y = torch.atleast_2d(h).ravel().view(-1, 6)",
    "diagonal": "y = torch.diagonal(h.unsqueeze(2) * self.w, dim1=1, dim2=2)",
}

PRODUCTS: Mapping[str, str] = {
    "matmul": "y = h @ self.w + torch.matmul(h, self.w.t())",
    "mm": "y = torch.mm(h, self.w) + h.mm(self.w)",
    "mv": "y = h * torch.mv(self.w, self.w[0]) + torch.dot(self.w[0], self.w[1])",
    "bmm": "y = torch.bmm(h.view(-1, 2, 3), h.view(-1, 3, 2)).flatten(1).repeat(1, 2)[:, :6]",
    "baddbmm": (
        "y = torch.baddbmm(h.view(-1, 2, 3), h.view(-1, 2, 3), self.w[:3, :3].expand(h.shape[0], 3, 3)).flatten(1)"
    ),
    "addmm": "y = torch.addmm(self.w[0], h, self.w, beta=0.5, alpha=2.0)",
    "addmv": "y = h + torch.addmv(self.w[0], self.w, self.w[1])",
    "outer": "y = h @ torch.outer(self.w[0], self.w[1])",
    "einsum": "y = torch.einsum('bi,ij->bj', h, self.w)",
    "einsum_batch": (
        "y = torch.einsum('bij,bkj->bik', h.view(-1, 2, 3), h.view(-1, 2, 3)).flatten(1).repeat(1, 2)[:, :6]"
    ),
    "tensordot": "y = torch.tensordot(h, self.w, dims=1)",
    "kron": "y = h @ torch.kron(self.w[:2, :2], self.w[:3, :3])",
    "cross": "y = torch.cross(h.view(-1, 2, 3), h.view(-1, 2, 3).flip(1), dim=2).flatten(1)",
    "linalg_cross": "y = torch.linalg.cross(h[:, :3], h[:, 3:], dim=-1).repeat(1, 2)",
    "chain": "y = torch.linalg.multi_dot([h, self.w, self.w])",
    "block_diag": "y = h @ torch.block_diag(self.w[:2, :2], self.w[2:, 2:])",
    "vecdot": "y = h * torch.linalg.vecdot(h, h.flip(1), dim=1).unsqueeze(1)",
}

CONTROL: Mapping[str, str] = {
    "if_training": "if self.training:\n    y = h * 0.0\nelse:\n    y = h * 2.0",
    "if_number": "if self.scale > 1.0:\n    y = h * self.scale\nelse:\n    y = h",
    "if_shape": "if h.dim() == 1:\n    y = h.unsqueeze(0)\nelse:\n    y = h",
    "if_width": (
        "if x.shape[-1] != 4 or not x.is_floating_point():\n    raise ValueError('expected four numbers')\ny = h"
    ),
    "if_none": "y = self.maybe(h, None) + self.maybe(h, h)",
    "conditional": "y = h if self.scale > 1.0 else h * 0.0",
    "loop": "y = h\nfor at in range(3):\n    y = torch.tanh(F.linear(y, self.w)) * float(at + 1)",
    "loop_over": "y = torch.zeros_like(h)\nfor part in h.split(2, dim=1):\n    y = y + part.sum(1, keepdim=True)",
    "enumerate": "y = h\nfor at, layer in enumerate(self.layers):\n    y = layer(y) + at",
    "append": "found = []\nfor at in range(6):\n    found.append(h[:, at] * 2.0)\ny = torch.stack(found, dim=1)",
    "comprehension": "y = torch.stack([h[:, at] for at in range(5, -1, -1)], dim=1)",
    "assert": "assert h.shape[1] == 6, 'six'\ny = h",
    "assert_tuple": "assert x.dim() == 2 and x.size(1) == 4, f'expected four, got {x.shape}'\ny = h",
    "tuple": "pair = (h, h * 2.0)\na, c = pair\ny = a + pair[1]",
    "method": "y = self.helper(h, 2.0) + self.helper(h)",
    "function": "y = squashed(h, -1.0, 1.0)",
    "dictionary": "d = {'a': h, 'b': h * 2.0}\ny = d['a'] + d['b']",
    "list_index": (
        "parts = [h, h * 2.0, h * 3.0]\ny = parts[-1] + parts[0]\nfor at in range(len(parts)):\n    y = y + parts[at]"
    ),
    "numbers": "n = 2 * 3 - 1\nm = float(n) / 2 + n // 2 + n % 2 + abs(-n) + min(n, 2) + max(n, 2) + n ** 2\ny = h * m",
    "math": (
        "y = h * (math.pi + math.sqrt(4.0) + math.exp(0.5) + math.floor(2.5) + math.log(2.0) "
        "+ math.cos(1.0) + int(2.5))"
    ),
    "boolean": "flag = self.scale > 1.0 and not self.training or h.dim() == 5\ny = h * 2.0 if flag else h",
    "string": "y = h * 2.0 if self.mode == 'twice' else h",
    "isinstance": "y = h\nif isinstance(h, torch.Tensor):\n    y = h * 2.0",
    "sampling": "y = h\nif self.training:\n    y = h + torch.randn_like(h)",
    "named_tuple": "pair = Pair(h, h * 2.0)\ny = pair.one + pair[1]",
    "detached": "y = h.detach().clone().requires_grad_(False)",
    "list_slice": (
        "parts = [h, h * 2.0, h * 3.0]\ny = torch.stack(parts[1:], 0).sum(0)\nparts.reverse()\ny = y + parts[0]"
    ),
    "list_add": "parts = [h] + [h * 2.0]\ny = torch.stack(parts).sum(0)",
    "shape_list": "shape = list(h.shape)\nshape[-1] = 3\nshape.append(2)\ny = h.reshape(shape).flatten(1)",
    "zip": "y = h\nfor scale, part in zip([1.0, 2.0], [h, h * 2.0]):\n    y = y + part * scale",
    "early": "if self.scale < 1.0:\n    return self.last(h)\ny = h * 2.0",
}

GROUPS: Mapping[str, Mapping[str, str]] = {
    "activations": ACTIVATIONS,
    "normalisations": NORMALISATIONS,
    "layers": LAYERS,
    "numbers": NUMBERS,
    "reductions": REDUCTIONS,
    "shapes": SHAPES,
    "products": PRODUCTS,
    "in place": IN_PLACE,
    "control": CONTROL,
}
