// One pass of a decoder over a ragged batch, behind a C interface.
//
// Everything between the products is in float32: the residual stream, norms, rotation, softmax, gate. What is
// multiplied is in the model's dtype, and so are keys and values, which lie in the caller's cache.
#include "decoder.h"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "attention.h"
#include "pool.h"

namespace goodspeed {
namespace {

struct Layer {
    Matrix query_key_value, output, gate, up, down;
    std::vector<float> bias, input_norm, post_norm, query_norm, key_norm;
    void* keys = nullptr;
    void* values = nullptr;
    int window = 0;
};

// One piece of attention: query rows [first, first + count) of a segment with one key-value head.
struct Piece {
    int segment, first, count, head;
};

struct Aligned {
    std::unique_ptr<void, void (*)(void*)> memory{nullptr, std::free};
    size_t bytes = 0;
    void* at_least(size_t wanted) {
        if (wanted > bytes) {
            bytes = (wanted + wanted / 4 + 4095) / 4096 * 4096;
            memory.reset(std::aligned_alloc(4096, bytes));
            if (!memory) throw std::bad_alloc();
            std::memset(memory.get(), 0, bytes);
        }
        return memory.get();
    }
};

inline int whole(int count, int unit) { return (count + unit - 1) / unit * unit; }

}  // namespace

class Decoder {
public:
    Decoder(const goodspeed_shape& shape, int threads)
        : shape_(shape), layers_(size_t(shape.layers)), pool_(threads) {}
    virtual ~Decoder() = default;
    virtual void matrix(int layer, int which, int rows, int columns, Format format, const void* data,
                        const uint16_t* scales, const uint16_t* minima) = 0;
    virtual void forward(int segments, const goodspeed_segment* segment, const int64_t* tokens, float* logits) = 0;

    void vector(int layer, int which, const float* data, int count) {
        std::vector<float>* const found[] = {&norm_,
                                             &layers_[size_t(layer)].bias,
                                             &layers_[size_t(layer)].input_norm,
                                             &layers_[size_t(layer)].post_norm,
                                             &layers_[size_t(layer)].query_norm,
                                             &layers_[size_t(layer)].key_norm};
        found[which]->assign(data, data + count);
        found[which]->resize(size_t(whole(count, kGroup)), 0.0f);
    }
    void cache(int layer, void* keys, void* values, int window) {
        layers_[size_t(layer)].keys = keys, layers_[size_t(layer)].values = values;
        layers_[size_t(layer)].window = window;
    }

protected:
    Matrix& matrix_of(int layer, int which) {
        Layer& owner = layers_[size_t(layer)];
        Matrix* const found[] = {&head_, &owner.query_key_value, &owner.output, &owner.gate, &owner.up, &owner.down};
        return *found[which];
    }

    goodspeed_shape shape_;
    std::vector<Layer> layers_;
    Matrix head_;
    std::vector<float> norm_;
    Pool pool_;
};

namespace {

// Activations of one pass, with the memory for either form.
struct Rows : Activations {
    void reserve(int rows, int columns) {
        groups = (columns + kGroup - 1) / kGroup;
        const size_t count = size_t(rows) * size_t(groups);
        elements = elements_.at_least(count * kGroup * 4);
        integers = static_cast<int16_t*>(integers_.at_least(count * kGroup * 2));
        scales = static_cast<float*>(scales_.at_least(count * 4));
        sums = static_cast<float*>(sums_.at_least(count * 4));
    }

private:
    Aligned elements_, integers_, scales_, sums_;
};

template <class Math, class Kept>
class Pass final : public Decoder {
    using Element = typename Math::Element;

public:
    Pass(const goodspeed_shape& shape, int threads)
        : Decoder(shape, threads), gates_(size_t(pool_.threads())), attention_(gates_.size()) {}

    void matrix(int layer, int which, int rows, int columns, Format format, const void* data, const uint16_t* scales,
                const uint16_t* minima) override {
        Matrix& target = matrix_of(layer, which);
        target.reserve(rows, columns, format);
        switch (format) {
            case Format::kBfloat: return target.fill(static_cast<const uint16_t*>(data), columns, Math::kPairs);
            case Format::kFloat: return target.fill(static_cast<const float*>(data), columns, Math::kPairs);
            default: return target.fill_integers(static_cast<const int8_t*>(data), scales, minima, columns);
        }
    }

    void forward(int segments, const goodspeed_segment* segment, const int64_t* tokens, float* logits) override {
        lay_out(segments, segment);
        const goodspeed_shape& s = shape_;
        const int heads = s.heads * s.head_size;
        hidden_ = whole(s.hidden, kGroup), mixed_ = whole(heads, kGroup);
        wide_ = whole((s.heads + 2 * s.kv_heads) * s.head_size, kLanes);
        x_ = static_cast<float*>(residual_.at_least(size_t(rows_) * hidden_ * 4));
        projected_ = static_cast<float*>(projected_memory_.at_least(size_t(rows_) * wide_ * 4));
        attended_ = static_cast<float*>(attended_memory_.at_least(size_t(rows_) * mixed_ * 4));
        normed_.reserve(rows_, s.hidden);
        mix_.reserve(rows_, heads);
        gated_.reserve(rows_, s.intermediate);
        pool_.begin();
        by_rows(rows_, [&](int row) { embed(tokens[row], row); });
        for (Layer& layer : layers_) {
            by_rows(rows_, [&](int row) { norm(row, row, layer.input_norm, layer.query_key_value); });
            project(layer);
            by_rows(rows_, [&](int row) { turn_and_keep(layer, row); });
            pool_.run(int(pieces_.size()), [&](int piece, int thread) { attend_piece(layer, pieces_[size_t(piece)], thread); });
            by_rows(rows_, [&](int row) { put_mix(row, layer.output); });
            add(layer.output, mix_);
            by_rows(rows_, [&](int row) { norm(row, row, layer.post_norm, layer.gate); });
            gate(layer);
            add(layer.down, gated_);
        }
        const int wanted = int(wanted_.size());
        by_rows(wanted, [&](int i) { norm(wanted_[size_t(i)], i, norm_, head_); });
        head(wanted, logits);
        pool_.end();
    }

private:
    // Row-wise work of a few rows is done before another thread would have noticed.
    static constexpr int kRowsAPiece = 4;
    static constexpr int kPiecesAThread = 6;

    template <class Each>
    void by_rows(int rows, Each each) {
        pool_.run((rows + kRowsAPiece - 1) / kRowsAPiece, [&](int chunk, int) {
            for (int row = chunk * kRowsAPiece; row < std::min(rows, (chunk + 1) * kRowsAPiece); row++) each(row);
        });
    }

    void lay_out(int segments, const goodspeed_segment* segment) {
        positions_.clear(), slots_.clear(), wanted_.clear(), pieces_.clear();
        const int group = shape_.heads / shape_.kv_heads, most = std::max(1, kStrip / group);
        for (int i = 0; i < segments; i++) {
            const goodspeed_segment& given = segment[i];
            const int first = int(positions_.size());
            for (int j = 0; j < given.count; j++) {
                positions_.push_back(given.start + j), slots_.push_back(given.slot);
                if (j >= given.count - given.logit_rows) wanted_.push_back(first + j);
            }
            for (int j = 0; j < given.count; j += most)
                for (int h = 0; h < shape_.kv_heads; h++) pieces_.push_back({i, first + j, std::min(most, given.count - j), h});
        }
        rows_ = int(positions_.size());
    }

    void embed(int64_t token, int row) {
        float* out = x_ + size_t(row) * hidden_;
        const Kept* from = static_cast<const Kept*>(shape_.embedding) + size_t(token) * shape_.hidden;
        for (int i = 0; i < shape_.hidden; i++) out[i] = number(from[i]);
        for (int i = shape_.hidden; i < hidden_; i++) out[i] = 0;
    }
    static float number(float x) { return x; }
    static float number(uint16_t x) { return widen(x); }

    // Root mean square of the first `hidden`; whatever pads them is zero, and so is its weight.
    void norm(int row, int to, const std::vector<float>& weight, const Matrix& next) {
        const float* x = x_ + size_t(row) * hidden_;
        Vector total = zero();
        for (int i = 0; i < hidden_; i += kLanes) total = multiply_add(load(x + i), load(x + i), total);
        const Vector factor = all(1.0f / std::sqrt(sum(total) / float(shape_.hidden) + shape_.epsilon));
        const float* w = weight.data();
        const bool integers = of_integers(next.format);
        for (int g = 0; g < normed_.groups; g++, x += kGroup, w += kGroup)
            normed_.template put<Math>(to, g, load(x) * factor * load(w), load(x + kLanes) * factor * load(w + kLanes), integers);
    }

    // Neighbouring blocks go to one thread, in pieces of which each thread gets a few.
    int together(int pieces) const { return std::max(1, pieces / (kPiecesAThread * pool_.threads())); }

    // All blocks times all rows; use(block, row, sum).
    template <class Use>
    void multiply(const Matrix& matrix, const Activations& x, int rows, Use use) {
        const int pairs = (matrix.blocks + 1) / 2, pairs_a_piece = together(pairs);
        pool_.run((pairs + pairs_a_piece - 1) / pairs_a_piece, [&](int piece, int) {
            for (int p = piece * pairs_a_piece; p < std::min(pairs, (piece + 1) * pairs_a_piece); p++) {
                const int first = 2 * p, count = std::min(2, matrix.blocks - first);
                const uint8_t* const blocks[2] = {matrix.block(first), matrix.block(first + count - 1)};
                product<Math>(matrix.format, blocks, count, x, rows,
                              [&](int b, int row, Vector sum) { use(first + b, row, sum); });
            }
        });
    }

    void project(Layer& layer) {
        const float* bias = layer.bias.empty() ? nullptr : layer.bias.data();
        multiply(layer.query_key_value, normed_, rows_, [&](int block, int row, Vector sum) {
            if (bias) sum = sum + load(bias + kLanes * block);
            store(projected_ + size_t(row) * wide_ + kLanes * block, sum);
        });
    }

    void add(const Matrix& matrix, const Activations& x) {
        multiply(matrix, x, rows_, [&](int block, int row, Vector sum) {
            float* out = x_ + size_t(row) * hidden_ + kLanes * block;
            store(out, load(out) + sum);
        });
    }

    // A group of what the next matrix reads takes two blocks of the gate and two of what it lets through.
    void gate(Layer& layer) {
        const Matrix &gate = layer.gate, &up = layer.up;
        const bool integers = of_integers(layer.down.format);
        const int groups_a_piece = together(gated_.groups);
        pool_.run((gated_.groups + groups_a_piece - 1) / groups_a_piece, [&](int piece, int thread) {
            auto* const held = static_cast<Vector*>(gates_[size_t(thread)].at_least(size_t(rows_) * 2 * sizeof(Vector)));
            for (int g = piece * groups_a_piece; g < std::min(gated_.groups, (piece + 1) * groups_a_piece); g++)
                gate_group(gate, up, g, held, integers);
        });
    }

    void gate_group(const Matrix& gate, const Matrix& up, int group, Vector* held, bool integers) {
            const int first = 2 * group, count = std::min(2, gate.blocks - first);
            if (count == 1)
                for (int row = 0; row < rows_; row++) held[2 * row + 1] = zero();
            const uint8_t* const gates[2] = {gate.block(first), gate.block(first + count - 1)};
            product<Math>(gate.format, gates, count, normed_, rows_, [&](int b, int row, Vector sum) {
                held[2 * row + b] = sum / (all(1.0f) + exponential(zero() - larger(all(-88.0f), sum)));
            });
            const uint8_t* const ups[2] = {up.block(first), up.block(first + count - 1)};
            product<Math>(up.format, ups, count, normed_, rows_,
                          [&](int b, int row, Vector sum) { held[2 * row + b] = held[2 * row + b] * sum; });
            for (int row = 0; row < rows_; row++)
                gated_.template put<Math>(row, group, held[2 * row], held[2 * row + 1], integers);
    }

    void put_mix(int row, const Matrix& next) {
        const float* from = attended_ + size_t(row) * mixed_;
        const bool integers = of_integers(next.format);
        for (int g = 0; g < mix_.groups; g++, from += kGroup)
            mix_.template put<Math>(row, g, load(from), load(from + kLanes), integers);
    }

    void turn_and_keep(const Layer& layer, int row) {
        const goodspeed_shape& s = shape_;
        const int size = s.head_size, half = size / 2, position = positions_[size_t(row)];
        float* heads = projected_ + size_t(row) * wide_;
        const float* cosine = s.cosine + size_t(position) * half;
        const float* sine = s.sine + size_t(position) * half;
        const size_t place = (size_t(slots_[size_t(row)]) * s.max_context + position) * s.kv_heads * size;
        for (int h = 0; h < s.heads + s.kv_heads; h++) {
            float* head = heads + h * size;
            const auto& weight = h < s.heads ? layer.query_norm : layer.key_norm;
            if (!weight.empty()) head_norm(head, weight.data());
            for (int i = 0; i < half; i++) {
                const float a = head[i], b = head[half + i];
                head[i] = a * cosine[i] - b * sine[i];
                head[half + i] = b * cosine[i] + a * sine[i];
            }
        }
        Kept* keys = static_cast<Kept*>(layer.keys) + place;
        Kept* values = static_cast<Kept*>(layer.values) + place;
        const float* key = heads + s.heads * size;
        const float* value = key + s.kv_heads * size;
        for (int i = 0; i < s.kv_heads * size; i += kLanes) {
            store_kept(keys + i, load(key + i));
            store_kept(values + i, load(value + i));
        }
    }

    void head_norm(float* head, const float* weight) const {
        Vector total = zero();
        for (int i = 0; i < shape_.head_size; i += kLanes) total = multiply_add(load(head + i), load(head + i), total);
        const Vector factor = all(1.0f / std::sqrt(sum(total) / float(shape_.head_size) + shape_.epsilon));
        for (int i = 0; i < shape_.head_size; i += kLanes) store(head + i, load(head + i) * factor * load(weight + i));
    }

    void attend_piece(const Layer& layer, const Piece& piece, int thread) {
        const goodspeed_shape& s = shape_;
        const int size = s.head_size, group = s.heads / s.kv_heads, padded = whole(size, kGroup);
        const size_t stride = size_t(s.kv_heads) * size;
        const size_t base = size_t(slots_[size_t(piece.first)]) * s.max_context * stride + size_t(piece.head) * size;
        const Head<Kept> head{static_cast<const Kept*>(layer.keys) + base, static_cast<const Kept*>(layer.values) + base,
                              stride, size};
        Work& work = attention_[size_t(thread)];
        work.queries.resize(size_t(group * kStrip * padded));
        work.out.resize(size_t(group * kStrip * size));
        // More query heads than a strip share a key-value head: a strip of them at a time.
        const int heads_a_time = std::min(group, kStrip);
        for (int first = 0; first < group; first += heads_a_time) {
            const int some = std::min(heads_a_time, group - first);
            Sight sights[kStrip];
            for (int r = 0; r < piece.count; r++) {
                const int position = positions_[size_t(piece.first + r)];
                const float* heads = projected_ + size_t(piece.first + r) * wide_ + (piece.head * group + first) * size;
                for (int h = 0; h < some; h++) {
                    const int q = r * some + h;
                    sights[q] = {layer.window ? std::max(0, position + 1 - layer.window) : 0, position + 1};
                    Element* query = work.queries.data() + size_t(q) * padded;
                    for (int i = 0; i < size; i += kLanes) Math::store_activation(query + i, load(heads + h * size + i));
                    for (int i = size; i < padded; i++) query[i] = 0;
                }
            }
            attend<Math, Kept>(head, work.queries.data(), sights, piece.count * some, s.scaling, work.scratch, work.out.data());
            for (int r = 0; r < piece.count; r++)
                for (int h = 0; h < some; h++) {
                    float* out = attended_ + size_t(piece.first + r) * mixed_ + (piece.head * group + first + h) * size;
                    const float* from = work.out.data() + size_t(r * some + h) * size;
                    for (int i = 0; i < size; i += kLanes) store(out + i, load(from + i));
                }
        }
    }

    void head(int wanted, float* logits) {
        if (!wanted) return;
        const int columns = head_.outputs;
        multiply(head_, normed_, wanted, [&](int block, int row, Vector sum) {
            float* out = logits + size_t(row) * columns + kLanes * block;
            if (kLanes * (block + 1) <= columns) return store(out, sum);
            float last[kLanes];
            store(last, sum);
            std::memcpy(out, last, sizeof(float) * size_t(columns - kLanes * block));
        });
    }

    struct Work {
        AttentionScratch<Math> scratch;
        std::vector<Element> queries;
        std::vector<float> out;
    };

    std::vector<int> positions_, slots_, wanted_;
    std::vector<Piece> pieces_;
    int rows_ = 0, hidden_ = 0, mixed_ = 0, wide_ = 0;
    Aligned residual_, projected_memory_, attended_memory_;
    float* x_ = nullptr;          // [rows, hidden]
    float* projected_ = nullptr;  // [rows, heads and twice the key-value heads]
    float* attended_ = nullptr;   // [rows, heads]
    Rows normed_, mix_, gated_;
    std::vector<Aligned> gates_;
    std::vector<Work> attention_;
};

}  // namespace
}  // namespace goodspeed

using goodspeed::Decoder;

extern "C" {

goodspeed_decoder* goodspeed_create(const goodspeed_shape* shape, int threads) {
    using namespace goodspeed;
    try {
        Decoder* made;
        if (!shape->bfloat)
            made = new Pass<FloatMath, float>(*shape, threads);
        else
#if defined(__AVX512BF16__)
            made = new Pass<PairMath, uint16_t>(*shape, threads);
#else
            made = new Pass<FloatMath, uint16_t>(*shape, threads);
#endif
        return reinterpret_cast<goodspeed_decoder*>(made);
    } catch (...) {
        return nullptr;
    }
}

void goodspeed_destroy(goodspeed_decoder* decoder) { delete reinterpret_cast<Decoder*>(decoder); }

int goodspeed_matrix(goodspeed_decoder* decoder, int layer, int which, int rows, int columns, int format, const void* data,
                     const uint16_t* scales, const uint16_t* minima) {
    try {
        reinterpret_cast<Decoder*>(decoder)->matrix(layer, which, rows, columns, goodspeed::Format(format), data, scales, minima);
        return 0;
    } catch (...) {
        return 1;
    }
}

int goodspeed_vector(goodspeed_decoder* decoder, int layer, int which, const float* data, int count) {
    try {
        reinterpret_cast<Decoder*>(decoder)->vector(layer, which, data, count);
        return 0;
    } catch (...) {
        return 1;
    }
}

void goodspeed_cache(goodspeed_decoder* decoder, int layer, void* keys, void* values, int window) {
    reinterpret_cast<Decoder*>(decoder)->cache(layer, keys, values, window);
}

int goodspeed_forward(goodspeed_decoder* decoder, int segments, const goodspeed_segment* segment, const int64_t* tokens,
                      float* logits) {
    try {
        reinterpret_cast<Decoder*>(decoder)->forward(segments, segment, tokens, logits);
        return 0;
    } catch (...) {
        return 1;
    }
}
}
