"""The table of operators, its first half: what works on numbers one by one, or along an axis."""

from collections.abc import Mapping

ACTIVATIONS: Mapping[str, str] = {
    name: f"y = F.{name}(h)"
    for name in """
    elu celu selu silu gelu mish softplus softsign hardtanh hardswish hardsigmoid relu6 leaky_relu relu rrelu
    logsigmoid tanhshrink softshrink hardshrink sigmoid tanh
    """.split()
} | {
    "gelu_tanh": "y = F.gelu(h, approximate='tanh')",
    "glu": "y = F.glu(torch.cat([h, h * 2.0], dim=1), dim=1)",
    "prelu": "y = self.prelu(h)",
    "threshold": "y = F.threshold(h, 0.1, -1.0)",
    "softmax": "y = F.softmax(h, dim=-1)",
    "softmin": "y = F.softmin(h, dim=-1)",
    "log_softmax": "y = F.log_softmax(h, dim=-1)",
    "softmax_method": "y = h.softmax(-1) + h.log_softmax(dim=1)",
    "functional_inplace": "y = F.elu(F.relu(h * 2.0, inplace=True) - 0.5, inplace=True)",
    "silu_product": "y = F.silu(h) * torch.sigmoid(h)",
    "dropout": "y = F.dropout(self.dropout(h), 0.1, self.training)",
    "alpha_dropout": "y = F.alpha_dropout(h, 0.1, self.training)",
}

NUMBERS: Mapping[str, str] = (
    {
        name: f"y = torch.{name}(h)"
        for name in """
    abs neg sign sgn exp expm1 sin cos tan sinh cosh tanh asinh atan sigmoid erf square floor ceil round trunc frac
    relu isnan_not exp2
    """.split()
        if name != "isnan_not"
    }
    | {
        name: f"y = torch.{name}(h.abs() + 0.5)"
        for name in "log log1p log2 log10 sqrt rsqrt reciprocal lgamma digamma".split()
    }
    | {
        "acos": (
            "y = torch.acos(torch.tanh(h) * 0.9) + torch.asin(torch.tanh(h) * 0.9) + torch.atanh(torch.tanh(h) * 0.5)"
        ),
        "arith": "y = (h + 1) * 2.0 - h / 3 + (1 - h) - 2 / (h.abs() + 1)",
        "pow": "y = h ** 2 + torch.pow(h.abs() + 0.1, 0.5) + 2.0 ** h",
        "pow_tensor": "y = torch.pow(h.abs() + 0.1, torch.sigmoid(h))",
        "atan2": "y = torch.atan2(h, h.flip(1))",
        "arctan2": "y = torch.arctan2(h, h.flip(1) + 1.0)",
        "remainder": "y = torch.remainder(h, 2.0) + h % 3 + torch.fmod(h, 1.5)",
        "floor_divide": "y = torch.floor_divide(h, 0.5) + h // 2",
        "div_mode": "y = torch.div(h, 0.7, rounding_mode='floor') + torch.div(h, 0.7, rounding_mode='trunc')",
        "true_divide": "y = torch.true_divide(h, 2.0) + torch.divide(h, 3.0)",
        "multiply": "y = torch.multiply(h, 2.0) + torch.subtract(h, 1.0) + torch.negative(h)",
        "round_decimals": "y = torch.round(h, decimals=1)",
        "lerp": "y = torch.lerp(h, h.flip(1), 0.3)",
        "hypot": "y = torch.hypot(h, h.flip(1))",
        "addcmul": "y = torch.addcmul(h, h, h, value=0.5) + torch.addcdiv(h, h, h.abs() + 1.0)",
        "clamp": (
            "y = h.clamp(-1, 1) + torch.clamp(h, min=-0.5) + h.clip(max=0.5) + h.clamp_min(0.0) + h.clamp_max(1.0)"
        ),
        "clamp_tensor": "y = torch.clamp(h, torch.zeros_like(h), torch.ones_like(h))",
        "maximum": "y = torch.maximum(h, h.flip(1)) - torch.minimum(h, torch.zeros_like(h))",
        "max_other": (
            "y = torch.max(h, h.flip(1)) + torch.min(h, h.flip(1)) + torch.fmax(h, h * 2.0) + torch.fmin(h, h * 2.0)"
        ),
        "where": "y = torch.where(h > 0, h, h * 0.1)",
        "where_number": "y = torch.where(h > 0, h, torch.tensor(0.0))",
        "where_scalar": "y = torch.where(h > 0, 1.0, -1.0) * h",
        "compare": "y = (h > 0).float() - (h <= -0.5).float() + (h == 0).to(h.dtype) + (h != 0).type(torch.float32)",
        "logical": "y = ((h > 0) & (h < 1) | ~(h > -1)).float() + torch.logical_xor(h > 0, h > 1).float()",
        "logical_functions": (
            "y = torch.logical_and(h > 0, h < 1).float() + torch.logical_or(h > 0, h < 1) + torch.logical_not(h)"
        ),
        "heaviside": "y = torch.heaviside(h, torch.zeros_like(h))",
        "nan_to_num": "y = torch.nan_to_num(h, nan=0.0, posinf=1.0, neginf=-1.0)",
        "isfinite": "y = torch.where(torch.isfinite(h) & ~torch.isnan(h) & ~torch.isinf(h), h, torch.zeros_like(h))",
        "masked_fill": "y = h.masked_fill(h > 0, -1.0)",
        "masked_fill_tensor": "y = h.masked_fill(h > 0, torch.tensor(0.5))",
        "dtype": (
            "y = (h.double() * 2.0).float() + h.to(torch.float64).to(torch.float32) + h.int().float() "
            "+ h.half().float()"
        ),
        "type_as": "y = (h > 0).type_as(h) + h.to(h) + h.to(torch.bool).to(torch.float32)",
        "detach": "y = h.detach() + h.clone()",
        "constants": "y = h * math.pi + math.sqrt(2.0) + float(h.shape[1])",
        "xlogy": "y = torch.xlogy(h.abs(), h.abs() + 1.0)",
        "logaddexp": "y = torch.logaddexp(h, h.flip(1))",
        "sinc": "y = torch.sinc(h) + torch.deg2rad(h) + torch.rad2deg(h)",
        "special": (
            "y = torch.special.expit(h) + torch.special.log1p(h.abs()) + torch.logit(torch.sigmoid(h) * 0.8 + 0.1)"
        ),
        "bitwise": "y = ((h.int() & 3) | 1).float() + torch.bitwise_xor(h.int(), 5).float()",
        "shift": "y = (h.int() << 1).float() + torch.square(h)",
        "item_free": "y = h * self.w[0, 0] + self.w.sum()",
        "huber": "y = torch.sign(h) * (torch.sqrt(torch.abs(h) + 1) - 1) + 0.001 * h",
        "symlog": "y = torch.sign(h) * torch.log1p(torch.abs(h)) + torch.sign(h) * torch.expm1(h.abs())",
        "copysign": "y = torch.copysign(h.abs(), h.flip(1)) + torch.sgn(h)",
    }
)

REDUCTIONS: Mapping[str, str] = {
    name: f"y = h - h.{name}(dim=1, keepdim=True)" for name in "sum mean amax amin prod logsumexp std var".split()
} | {
    "logsumexp": "y = h - torch.logsumexp(h, dim=1, keepdim=True)",
    "norm": "y = h / (h.norm(2, dim=-1, keepdim=True) + 1.0)",
    "norm_p": "y = h / (h.norm(p=1, dim=1, keepdim=True) + 1.0)",
    "linalg_norm": "y = h / (torch.linalg.norm(h, dim=-1, keepdim=True) + 1.0)",
    "linalg_norm_ord": "y = h / (torch.linalg.norm(h, ord=1, dim=-1, keepdim=True) + 1.0)",
    "vector_norm": "y = h / (torch.linalg.vector_norm(h, dim=-1, keepdim=True) + 1.0)",
    "max_dim": "y = h - h.max(dim=1, keepdim=True)[0] + h.min(1)[0].unsqueeze(1)",
    "max_values": "values, at = torch.max(h, dim=1)\ny = h + values.unsqueeze(-1) + at.unsqueeze(-1).float()",
    "max_named": "y = h - h.max(dim=1, keepdim=True).values",
    "argmax": "y = h * h.argmax(dim=1, keepdim=True).float() + torch.argmin(h, dim=1).unsqueeze(1)",
    "std_unbiased": "y = h / torch.std(h, dim=1, unbiased=False, keepdim=True)",
    "var_correction": "y = h * torch.var(h, dim=1, correction=0, keepdim=True)",
    "var_mean": "v, m = torch.var_mean(h, dim=1, keepdim=True)\ny = (h - m) * v",
    "std_mean": "s, m = torch.std_mean(h, dim=1, keepdim=True)\ny = (h - m) / s",
    "median": "y = h - h.median(dim=1, keepdim=True)[0]",
    "cumsum": "y = h.cumsum(1)",
    "cumprod": "y = torch.cumprod(h, dim=1)",
    "any": "y = h * (h > 0).any(dim=1, keepdim=True).float() + (h > 0).all(1, keepdim=True).float()",
    "topk": "y = torch.topk(h, 6, dim=1)[0]",
    "topk_index": "values, at = h.topk(3, dim=-1)\ny = torch.cat([values, at.float()], dim=-1)",
    "sort": "y = torch.sort(h, dim=1)[0]",
    "sort_descending": "y = h.sort(dim=-1, descending=True)[0]",
    "argsort": "y = torch.gather(h, 1, torch.argsort(h, dim=1))",
    "sum_all": "y = h + h.sum(dim=[1], keepdim=True) + self.w.mean() + self.w.max() - self.w.min()",
    "count": "y = h * torch.count_nonzero(h > 0, dim=1).unsqueeze(1)",
    "diff": "y = torch.cat([h[:, :1], torch.diff(h, dim=1)], dim=1)",
    "softmax_entropy": "p = h.softmax(1)\ny = h - (p * p.log()).sum(1, keepdim=True)",
    "trace": "y = h * self.w.trace() + self.w.diagonal() + torch.diag(self.w)",
}

IN_PLACE: Mapping[str, str] = {
    name: f"y = h * 0.5\ny.{name}_({given})"
    for name, given in {
        "tanh": "",
        "sigmoid": "",
        "relu": "",
        "exp": "",
        "abs": "",
        "neg": "",
        "square": "",
        "sin": "",
        "cos": "",
        "floor": "",
        "round": "",
        "zero": "",
        "fill": "0.5",
        "add": "1.0",
        "sub": "h",
        "mul": "h",
        "div": "2.0",
        "pow": "2.0",
        "clamp": "-1.0, 1.0",
        "clamp_min": "0.1",
        "clamp_max": "0.1",
        "clip": "-1.0, 1.0",
        "copy": "h",
        "masked_fill": "h > 0, -1.0",
        "addcmul": "h, h",
        "lerp": "h, 0.5",
        "nan_to_num": "",
        "remainder": "2.0",
    }.items()
} | {
    "clamp_min_functional": "y = torch.clamp_min_(h * 1.0, 0.1) + torch.clamp_max_(h * 1.0, 0.2)",
    "clamp_functional": "y = torch.clamp_(h * 1.0, -1.0, 1.0) + torch.relu_(h * 1.0) + torch.tanh_(h * 1.0)",
    "sqrt": "y = h.abs().sqrt_() + (h.abs() + 1.0).log_() + (h.abs() + 1.0).reciprocal_() + (h.abs() + 1.0).rsqrt_()",
    "augmented": "y = h.clone()\ny += 1.0\ny *= h\ny -= 0.5\ny /= 2.0",
    "item": "y = h.clone()\ny[:, 0] = 0.0\ny[:, 1] = h[:, 2]\ny[:, 3:5] += 1.0\ny[:, -1] *= 2.0",
    "item_slice": "y = torch.zeros_like(h)\ny[:, :3] = h[:, 3:]\ny[..., 3:] = h[:, :3]",
    "item_all": "y = torch.zeros_like(h)\ny[:] = h",
    "item_mask": "y = h.clone()\ny[h > 0] = 0.5",
    "item_index": "y = torch.zeros_like(h)\ny[:, self.b] = h",
    "scatter": "y = torch.zeros_like(h)\ny.scatter_(1, h.argmax(1, keepdim=True), 1.0)",
    "index_copy": "y = torch.zeros_like(h)\ny.index_copy_(1, self.b, h)",
    "view": "y = h.clone()\nz = y.view(-1, 2, 3)\nz[:, 0] = 1.0\nz[:, 1].mul_(2.0)",
    "input": "x.clamp_(-0.5, 0.5)\ny = self.first(x)",
    "input_item": "x[:, 0] = 0.0\ny = self.first(x)",
    "input_view": "z = x.view(-1, 2, 2)\nz[:, 0].mul_(3.0)\ny = self.first(x)",
}
