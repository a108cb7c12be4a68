// CANN's documents aclnnFlashAttentionScore and aclnnPromptFlashAttentionV3.
#include "products.h"

namespace {
struct Sizes { int64_t batch, heads, queries, keys, width; };
// [batch, heads, sequence, width], whichever layout it lies in.
Singles heads(Tensor tensor, int64_t n, bool bsh) {
  if (!bsh) return load<float>(tensor);
  int64_t width = tensor.size(2) / n;
  return read<float>(tensor, {tensor.size(0), n, tensor.size(1), width}, {tensor->stride[0], width * tensor->stride[2], tensor->stride[1], tensor->stride[2]}, tensor->offset);
}
void put_heads(Tensor tensor, int64_t n, bool bsh, const Singles &values) {
  if (!bsh) return store(tensor, values);
  int64_t width = tensor.size(2) / n;
  store(tensor, {tensor.size(0), n, tensor.size(1), width}, {tensor->stride[0], width * tensor->stride[2], tensor->stride[1], tensor->stride[2]}, tensor->offset, values);
}
struct Attended { Singles values, most, sum; };
// masked: [batch, heads, queries, keys], non-zero where a key is left out; or empty.
Attended attend(const Sizes &s, const Singles &q, const Singles &k, const Singles &v, const Singles &masked, double scale) {
  Attended result{Singles(q.size(), 0), Singles(s.batch * s.heads * s.queries), Singles(s.batch * s.heads * s.queries)};
#pragma omp parallel for
  for (int64_t head = 0; head < s.batch * s.heads; head++) {
    Singles turned(s.width * s.keys), scores(s.queries * s.keys, 0);
    for (int64_t j = 0; j < s.keys; j++)
      for (int64_t d = 0; d < s.width; d++) turned[d * s.keys + j] = k[(head * s.keys + j) * s.width + d];
    multiply(&q[head * s.queries * s.width], turned.data(), scores.data(), s.queries, s.width, s.keys);
    for (int64_t i = 0; i < s.queries; i++) {
      float *row = &scores[i * s.keys], most = -INFINITY, sum = 0;
      for (int64_t j = 0; j < s.keys; j++) {
        row[j] = !masked.empty() && masked[(head * s.queries + i) * s.keys + j] ? -INFINITY : row[j] * (float)scale;
        most = std::max(most, row[j]);
      }
      for (int64_t j = 0; j < s.keys; j++) sum += row[j] = std::exp(row[j] - most);
      for (int64_t j = 0; j < s.keys; j++) row[j] /= sum;
      result.most[head * s.queries + i] = most;
      result.sum[head * s.queries + i] = sum;
    }
    multiply(scores.data(), &v[head * s.keys * s.width], &result.values[head * s.queries * s.width], s.queries, s.keys, s.width);
  }
  return result;
}
void eight_times(Tensor tensor, const Singles &values) {
  Singles all;
  for (float value : values) all.insert(all.end(), 8, value);
  store(tensor, all);
}
Singles mask_of(Tensor mask, const Sizes &s) { return mask ? load<float>(mask, {s.batch, s.heads, s.queries, s.keys}) : Singles(); }
// Every key that comes after its query.
Singles later_ones(const Sizes &s) {
  Singles masked(s.batch * s.heads * s.queries * s.keys);
  for (size_t i = 0; i < masked.size(); i++) masked[i] = (int64_t)i % s.keys > (int64_t)i / s.keys % s.queries;
  return masked;
}
}  // namespace

ACLNN(aclnnFlashAttentionScore, (Tensor query, Tensor key, Tensor value, Tensor real_shift, Tensor drop_mask, Tensor padding_mask, Tensor atten_mask, Ints prefix,
       double scale, double keep_prob, int64_t pre_tokens, int64_t next_tokens, int64_t head_num, const char *layout, int64_t inner_precise, int64_t sparse_mode,
       Tensor softmax_max, Tensor softmax_sum, Tensor softmax_out, Tensor out),
      (query, key, value, real_shift, drop_mask, padding_mask, atten_mask, prefix, scale, keep_prob, pre_tokens, next_tokens, head_num, layout, inner_precise,
       sparse_mode, softmax_max, softmax_sum, softmax_out, out)) {
  type(query, floats(), "query");
  for (Tensor other : {key, value, out}) same_type(other, query, "key, value or out");
  NEED(!real_shift && !drop_mask && !padding_mask && keep_prob == 1, "only an attenMask is known here");
  NEED(!strcmp(layout, "BSH") || !strcmp(layout, "BNSD"), "layout %s is not known here", layout);
  bool causal = sparse_mode == 2;  // leftUpCausal: attenMask is a triangle of 2048 x 2048, whatever the sequences are
  NEED((sparse_mode == 0 || causal) && inner_precise >= 0 && inner_precise <= 4, "sparseMode %lld, innerPrecise %lld", (long long)sparse_mode, (long long)inner_precise);
  bool bsh = !strcmp(layout, "BSH");
  NEED(query.rank() == (bsh ? 3 : 4), "query is %s", text(query->shape).c_str());
  NEED(head_num >= 1 && head_num <= 256 && (bsh ? query.size(2) % head_num == 0 : query.size(1) == head_num), "%lld heads for %s", (long long)head_num, text(query->shape).c_str());
  Sizes s{query.size(0), head_num, query.size(bsh ? 1 : 2), key.size(bsh ? 1 : 2), bsh ? query.size(2) / head_num : query.size(3)};
  NEED(s.width >= 1 && s.width <= 768, "head size %lld", (long long)s.width);
  NEED(s.width % 16 == 0 || report::on("any_head_size"), "head size %lld is no multiple of 16", (long long)s.width);
  NEED(s.batch <= 2048 && s.queries <= 524288 && s.keys <= 524288, "sizes");
  NEED(softmax_max->type == FLOAT32 && softmax_max->shape == Shape({s.batch, s.heads, s.queries, 8}) && softmax_sum->shape == softmax_max->shape, "softmaxMax is %s", said(softmax_max).c_str());
  if (causal) NEED(atten_mask && atten_mask->shape == Shape({2048, 2048}), "attenMask of sparseMode 2 is %s", said(atten_mask).c_str());
  if (atten_mask) type(atten_mask, {BOOL, UINT8}, "attenMask");
  if (atten_mask && !causal) {
    const Shape &m = atten_mask->shape;
    NEED(m == Shape({s.queries, s.keys}) || (m.size() == 4 && (m[0] == s.batch || m[0] == 1) && (m[1] == s.heads || m[1] == 1) && !(m[0] == 1 && m[1] != 1 && s.batch != 1)
         && m[2] == s.queries && m[3] == s.keys), "attenMask is %s", text(m).c_str());
  }
  return [=] {
    Singles masked = causal ? later_ones(s) : mask_of(atten_mask, s);
    Attended got = attend(s, heads(query, s.heads, bsh), heads(key, s.heads, bsh), heads(value, s.heads, bsh), masked, scale);
    put_heads(out, s.heads, bsh, got.values);
    eight_times(softmax_max, got.most);
    eight_times(softmax_sum, got.sum);
  };
}

// On the 310P: no float32, no bfloat16 there, and a mask only where the sequences are equal multiples of 128.
ACLNN(aclnnPromptFlashAttentionV3, (Tensor query, Tensor key, Tensor value, Tensor pse_shift, Tensor atten_mask, Ints actual_lengths, Ints actual_lengths_kv, Tensor deq_scale1,
       Tensor quant_scale1, Tensor deq_scale2, Tensor quant_scale2, Tensor quant_offset2, int64_t num_heads, double scale, int64_t pre_tokens, int64_t next_tokens,
       const char *layout, int64_t num_key_value_heads, int64_t sparse_mode, int64_t inner_precise, Tensor out),
      (query, key, value, pse_shift, atten_mask, actual_lengths, actual_lengths_kv, deq_scale1, quant_scale1, deq_scale2, quant_scale2, quant_offset2, num_heads,
       scale, pre_tokens, next_tokens, layout, num_key_value_heads, sparse_mode, inner_precise, out)) {
  type(query, {FLOAT16, BFLOAT16}, "query");
  for (Tensor other : {key, value, out}) same_type(other, query, "key, value or out");
  NEED(!strcmp(layout, "BSH") && sparse_mode == 0 && !pse_shift, "only BSH without a shift is known here");
  Sizes s{query.size(0), num_heads, query.size(1), key.size(1), query.size(2) / num_heads};
  NEED(s.batch <= 128 && s.width % 16 == 0 && s.width <= 512, "batch %lld, head size %lld", (long long)s.batch, (long long)s.width);
  if (atten_mask) {
    type(atten_mask, {BOOL}, "attenMask");
    NEED(s.queries % 128 == 0 && s.queries == s.keys, "a mask for %lld queries and %lld keys", (long long)s.queries, (long long)s.keys);
  }
  return [=] {
    Singles masked = mask_of(atten_mask, s);
    if (atten_mask && next_tokens == 0)  // what comes later is left out besides
      for (size_t i = 0; i < masked.size(); i++) if ((int64_t)i % s.keys > (int64_t)i / s.keys % s.queries) masked[i] = 1;
    put_heads(out, s.heads, true, attend(s, heads(query, s.heads, true), heads(key, s.heads, true), heads(value, s.heads, true), masked, scale).values);
  };
}
