#include "pair_reader.h"

#include <numeric>
#include <type_traits>

#include "isa/kernels.h"

namespace dream_accel {
namespace {

const char* advance(const void* tensor, Dtype dtype, int64_t elements) {
    return static_cast<const char*>(tensor) + elements * size_of(dtype);
}

float* allocated(Buffer<float>& scratch) {
    if (!scratch) scratch = make_buffer<float>(PairReader::MAX);
    return scratch.get();
}

}  // namespace

void PairReader::open(const GradientPair& pair, int64_t g, int64_t first, int64_t n, bool with_grad) {
    pair_ = &pair;
    first_ = first;
    n_ = n;
    const void* real = advance(pair.real, pair.real_dtype, g * pair.real_stride);
    x = pair.interleave == 1 ? run(real, pair.real_dtype, pair.real_batch, x_) : gather(real);
    const void* synthetic = advance(pair.synthetic, pair.synthetic_dtype, g * pair.synthetic_stride);
    y = run(synthetic, pair.synthetic_dtype, pair.synthetic_batch, y_);

    target_ = nullptr;
    grad = nullptr;
    if (!with_grad) return;
    char* target = static_cast<char*>(pair.grad) + (g * pair.size() + first) * size_of(pair.synthetic_dtype);
    if (pair.synthetic_dtype == Dtype::float32 && pair.synthetic_batch == 1) {
        grad = reinterpret_cast<float*>(target);
    } else {
        grad = allocated(grad_);
        target_ = target;
    }
}

void PairReader::close() {
    if (!target_) return;
    const float share = 1.0f / static_cast<float>(pair_->synthetic_batch);
    kernels().from_float(grad, n_, share, target_, pair_->synthetic_dtype);
}

const float* PairReader::run(const void* of_class, Dtype dtype, int64_t batch, Scratch& scratch) {
    if (batch != 1) return mean(of_class, dtype, batch, scratch);
    const void* source = advance(of_class, dtype, first_);
    if (dtype == Dtype::float32) return static_cast<const float*>(source);
    kernels().to_float(source, dtype, n_, allocated(scratch));
    return scratch.get();
}

const float* PairReader::mean(const void* of_class, Dtype dtype, int64_t batch, Scratch& scratch) {
    if (static_cast<int64_t>(images_.size()) < batch) {
        images_.resize(batch);
        std::iota(images_.begin(), images_.end(), 0);
    }
    const void* source = advance(of_class, dtype, first_);
    kernels().mean_of_rows(source, dtype, pair_->size(), images_.data(), batch, 0, n_, allocated(scratch));
    return scratch.get();
}

const float* PairReader::gather(const void* of_class) {
    const int64_t inner = pair_->interleave, outer = pair_->length / inner;
    with_type(pair_->real_dtype, [&](auto* type) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
        const T* row = static_cast<const T*>(of_class) + first_ / pair_->length * pair_->length;
        T* gathered = reinterpret_cast<T*>(allocated(gathered_));
        int64_t i = first_ % pair_->length % inner, o = first_ % pair_->length / inner;
        for (int64_t j = 0; j < n_; ++j) {
            gathered[j] = row[i * outer + o];
            if (++i < inner) continue;
            i = 0;
            if (++o < outer) continue;
            o = 0;
            row += pair_->length;
        }
    });
    if (pair_->real_dtype == Dtype::float32) return gathered_.get();
    kernels().to_float(gathered_.get(), pair_->real_dtype, n_, allocated(x_));
    return x_.get();
}

}  // namespace dream_accel
