// Large tensors on the CPU in one stretch of memory of their own.
//
// In the heap of the C library small objects that live long come to lie between tensors that do not, and micro-batches
// of ever new shapes find holes that do not fit. Here nothing but tensors lies, so that all is one hole again when a
// micro-batch is done. A tensor gets the smallest hole that it fits into (best fit); holes side by side become one.
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

namespace {

constexpr size_t STEP = size_t(64) << 20;  // bytes by which the part that can be written grows

size_t rounded(size_t bytes, size_t grain) { return (bytes + grain - 1) / grain * grain; }

class Holes {
   public:
    void add(size_t at, size_t bytes) {
        auto next = by_place_.lower_bound(at);
        if (next != by_place_.end() && next->first == at + bytes) {
            bytes += next->second;
            next = drop(next);
        }
        if (next != by_place_.begin()) {
            auto last = std::prev(next);
            if (last->first + last->second == at) {
                at = last->first;
                bytes += last->second;
                drop(last);
            }
        }
        by_place_.emplace(at, bytes);
        by_size_.emplace(bytes, at);
    }

    // Where the smallest hole of at least so many bytes was, its rest kept; false if there is none.
    bool take(size_t bytes, size_t& at) {
        auto found = by_size_.lower_bound({bytes, 0});
        if (found == by_size_.end()) return false;
        auto [size, place] = *found;
        drop(by_place_.find(place));
        if (size > bytes) add(place + bytes, size - bytes);
        at = place;
        return true;
    }

    // The hole that ends there is no more; returns where it began, or the end itself if there was none.
    size_t take_before(size_t end) {
        if (by_place_.empty()) return end;
        auto last = std::prev(by_place_.end());
        if (last->first + last->second != end) return end;
        size_t at = last->first;
        drop(last);
        return at;
    }

    const std::map<size_t, size_t>& all() const { return by_place_; }

   private:
    std::map<size_t, size_t>::iterator drop(std::map<size_t, size_t>::iterator hole) {
        by_size_.erase({hole->second, hole->first});
        return by_place_.erase(hole);
    }

    std::map<size_t, size_t> by_place_;            // where it begins: bytes
    std::set<std::pair<size_t, size_t>> by_size_;  // bytes, where it begins
};

class Arena final : public c10::Allocator {
   public:
    Arena(char* base, size_t reserved, size_t least)
        : base_(base), reserved_(reserved), least_(least), usual_(c10::GetDefaultCPUAllocator()) {}

    c10::DataPtr allocate(size_t bytes) override {
        void* data = bytes >= least_ ? take(bytes) : nullptr;
        if (data == nullptr) return usual_->allocate(bytes);  // which also raises the error that everybody knows
        c10::profiledCPUMemoryReporter().New(data, bytes);
        return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &release; }

    void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

    // Free pages go back to the system.
    void trim() {
        std::lock_guard<std::mutex> alone(mutex);
        for (auto [at, bytes] : holes_.all()) madvise(base_ + at, bytes, MADV_DONTNEED);
    }

    void facts(int64_t* out) {
        std::lock_guard<std::mutex> alone(mutex);
        out[0] = static_cast<int64_t>(used_);
        out[1] = static_cast<int64_t>(top_);
        out[2] = static_cast<int64_t>(holes_.all().size());
    }

    static Arena* only;
    std::mutex mutex;

   private:
    static void release(void* data) {
        if (data == nullptr) return;
        char* place = static_cast<char*>(data);
        if (place < only->base_ || place >= only->base_ + only->reserved_) return only->usual_->raw_deleter()(data);
        c10::profiledCPUMemoryReporter().Delete(data);
        only->give(place);
    }

    void* take(size_t wanted) {
        size_t bytes = rounded(wanted, grain_), at = 0;
        std::lock_guard<std::mutex> alone(mutex);
        if (!holes_.take(bytes, at) && !grow(bytes, at)) return nullptr;
        used_ += bytes;
        taken_.emplace(at, bytes);
        return base_ + at;
    }

    void give(char* place) {
        std::lock_guard<std::mutex> alone(mutex);
        auto found = taken_.find(static_cast<size_t>(place - base_));
        used_ -= found->second;
        holes_.add(found->first, found->second);
        taken_.erase(found);
    }

    bool grow(size_t bytes, size_t& at) {
        size_t from = holes_.take_before(top_), end = from + bytes;
        if (end > open_) {
            size_t open = std::min(rounded(end, STEP), reserved_);
            if (end > open || mprotect(base_ + open_, open - open_, PROT_READ | PROT_WRITE) != 0) {
                if (from < top_) holes_.add(from, top_ - from);
                return false;
            }
            open_ = open;
        }
        top_ = end;
        at = from;
        return true;
    }

    char* base_;
    size_t reserved_, least_;
    c10::Allocator* usual_;
    size_t grain_ = std::max<size_t>(4096, static_cast<size_t>(sysconf(_SC_PAGESIZE)));
    size_t open_ = 0, top_ = 0, used_ = 0;         // bytes that can be written, that were ever used, that are
    Holes holes_;                                  // below top_
    std::unordered_map<size_t, size_t> taken_;     // where it begins: bytes
};

Arena* Arena::only = nullptr;

}  // namespace

// Tensors of at least so many bytes lie there from now on, in at most `reserved` bytes. Returns 0, or 1 when the system
// refuses the addresses.
extern "C" int64_t arena_open(int64_t reserved, int64_t least) {
    void* base = mmap(nullptr, static_cast<size_t>(reserved), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return 1;
#ifdef MADV_HUGEPAGE
    madvise(base, static_cast<size_t>(reserved), MADV_HUGEPAGE);
#endif
    Arena::only = new Arena(static_cast<char*>(base), static_cast<size_t>(reserved), static_cast<size_t>(least));
    pthread_atfork([] { Arena::only->mutex.lock(); }, [] { Arena::only->mutex.unlock(); }, [] { Arena::only->mutex.unlock(); });
    c10::SetAllocator(c10::DeviceType::CPU, Arena::only, 1);
    return 0;
}

extern "C" void arena_trim() { Arena::only->trim(); }

// Bytes in use, bytes that were ever used, and how many holes there are.
extern "C" void arena_facts(int64_t* out) { Arena::only->facts(out); }
