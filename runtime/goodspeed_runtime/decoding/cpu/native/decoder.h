// The C interface of a decoder's pass; library.py speaks it.
#pragma once

#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

typedef struct goodspeed_decoder goodspeed_decoder;

typedef struct {
    int32_t layers, hidden, intermediate, heads, kv_heads, head_size, max_context;
    int32_t bfloat;  // 1: embedding, keys and values are bfloat16; 0: float32
    float epsilon, scaling;
    const float* cosine;  // [max_context, head_size / 2]
    const float* sine;
    const void* embedding;  // [vocabulary, hidden]
} goodspeed_shape;

typedef struct {
    int32_t slot, start, count, logit_rows;
} goodspeed_segment;

// NULL where memory or threads are wanting. Not for several callers at once.
goodspeed_decoder* goodspeed_create(const goodspeed_shape*, int threads);
void goodspeed_destroy(goodspeed_decoder*);

// which: 0 head, 1 query-key-value, 2 output, 3 gate, 4 up, 5 down. format: 0 bfloat16, 1 float32, 2 integers
// below 16 in groups of 32, 3 int8 in groups of 32. Copies. Returns 0, or 1 without memory.
int goodspeed_matrix(goodspeed_decoder*, int layer, int which, int rows, int columns, int format, const void* data,
                     const uint16_t* scales, const uint16_t* minima);

// which: 0 last norm, 1 bias of query-key-value, 2 input norm, 3 post norm, 4 query norm, 5 key norm. Copies.
int goodspeed_vector(goodspeed_decoder*, int layer, int which, const float* data, int count);

// keys and values: [slots, max_context, kv_heads, head_size], the caller's. window: 0 is all.
void goodspeed_cache(goodspeed_decoder*, int layer, void* keys, void* values, int window);

// tokens of all segments, one after the other; logits: float32 [sum of logit_rows, rows of the head].
int goodspeed_forward(goodspeed_decoder*, int segments, const goodspeed_segment*, const int64_t* tokens, float* logits);
}
#pragma GCC visibility pop
