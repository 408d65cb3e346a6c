// The part of the CUDA driver, cuBLAS and cuRAND that candle calls, with the processor as the device.
//
// It is for finding mistakes, not for speed: memory comes filled with NaN and with a forbidden page behind its end,
// launches are checked as the driver does, threads of a block run one after another up to each barrier, from the
// first to the last (CUDA_ON_CPU_REVERSE=1: from the last, so that a forgotten barrier shows).
#include <cuda.h>
#include <cublas_v2.h>
#include <curand.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace {
std::recursive_mutex lock;  // one call at a time
constexpr size_t PAGE = 4096;

[[noreturn]] void fail(const std::string& problem) {
    std::fprintf(stderr, "cuda-on-cpu: %s\n", problem.c_str());
    std::abort();
}

// --- memory -----------------------------------------------------------------------------------------------------
struct Block { char* base; size_t pages; };
std::map<CUdeviceptr, Block>& blocks() { static std::map<CUdeviceptr, Block> all; return all; }

CUresult allocate(CUdeviceptr* out, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    // Elements have up to 8 bytes and start where their size divides the address.
    size_t room = (bytes + 7) / 8 * 8, pages = (room + PAGE - 1) / PAGE * PAGE;
    char* base = static_cast<char*>(mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(base, 0xff, pages);
    mprotect(base + pages, PAGE, PROT_NONE);
    *out = reinterpret_cast<CUdeviceptr>(base + pages - room);
    if (room == 0) *out = reinterpret_cast<CUdeviceptr>(base + pages);
    blocks()[*out] = {base, pages + PAGE};
    return CUDA_SUCCESS;
}
CUresult release(CUdeviceptr at) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (at == 0) return CUDA_SUCCESS;
    auto found = blocks().find(at);
    if (found == blocks().end()) return CUDA_ERROR_INVALID_VALUE;
    munmap(found->second.base, found->second.pages);
    blocks().erase(found);
    return CUDA_SUCCESS;
}

// --- kernels ----------------------------------------------------------------------------------------------------
typedef void (*Run)(void**);
std::map<std::string, std::map<std::string, Run>>& libraries() {
    static std::map<std::string, std::map<std::string, Run>> all;
    return all;
}
struct Module { std::map<std::string, Run>* kernels; std::string name; };
struct Function { Run run; std::string name; bool barriers; };
std::set<std::string>& with_barriers() { static std::set<std::string> all; return all; }

std::vector<ucontext_t> contexts;
std::vector<char> stacks;
enum State : char { READY, AT_BLOCK, AT_WARP, ENDED };
std::vector<State> states;
std::vector<unsigned> masks;  // lanes that a thread at a barrier of its warp waits for
char slots[1024][16];
ucontext_t scheduler;
unsigned current;
bool in_fibre;
Run running;
void** running_args;
constexpr size_t STACK = 256 << 10;

void fibre() {
    running(running_args);
    states[current] = ENDED;
    swapcontext(&contexts[current], &scheduler);
}
}  // namespace

extern "C" {
uint3 cpu_thread, cpu_block;
dim3 cpu_block_dim, cpu_grid_dim;

static void wait_as(State state) {
    if (!in_fibre) fail("a barrier in a file that was registered without barriers");
    unsigned me = current;
    states[me] = state;
    swapcontext(&contexts[me], &scheduler);
    current = me;
}
void cpu_barrier() { wait_as(AT_BLOCK); }
void cpu_warp_barrier(unsigned mask) {
    if (in_fibre) masks[current] = mask;
    wait_as(AT_WARP);
}
void* cpu_slot(unsigned thread) { return slots[thread]; }
void cpu_register(const char* library, const char* name, void (*run)(void**)) { libraries()[library][name] = run; }
void cpu_has_barriers(const char* library) { with_barriers().insert(library); }

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { *count = 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) { *device = ordinal; return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDeviceGetName(char* name, int size, CUdevice) { std::snprintf(name, size, "the processor"); return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 4
             : attribute == CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED ? 1 : 0;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { *context = reinterpret_cast<CUcontext>(1); return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* context) { *context = reinterpret_cast<CUcontext>(1); return CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream* stream, unsigned) { *stream = reinterpret_cast<CUstream>(3); return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamDestroy_v2(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) { *status = CU_STREAM_CAPTURE_STATUS_NONE; return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent* event, unsigned) { *event = reinterpret_cast<CUevent>(1); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent, CUstream) { return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(CUevent) { return CUDA_SUCCESS; }
CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) { return bytes == 0 ? CUDA_ERROR_INVALID_VALUE : allocate(out, bytes); }
CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream) { return allocate(out, bytes); }
CUresult cuMemFree_v2(CUdeviceptr at) { return release(at); }
CUresult cuMemFreeAsync(CUdeviceptr at, CUstream) { return release(at); }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream) { std::memcpy(reinterpret_cast<void*>(to), from, bytes); return CUDA_SUCCESS; }
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream) { std::memcpy(to, reinterpret_cast<void*>(from), bytes); return CUDA_SUCCESS; }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream) { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); return CUDA_SUCCESS; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t count, CUstream) { std::memset(reinterpret_cast<void*>(at), value, count); return CUDA_SUCCESS; }
CUresult cuMemsetD8_v2(CUdeviceptr at, unsigned char value, size_t count) { return cuMemsetD8Async(at, value, count, nullptr); }
CUresult cuGetErrorString(CUresult, const char** text) { *text = "an error of cuda-on-cpu"; return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult, const char** text) { *text = "CUDA_ON_CPU_ERROR"; return CUDA_SUCCESS; }

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    // PTX names its kernels; the library that has the most of them is the one compiled from the same file.
    const std::string text(static_cast<const char*>(image));
    std::set<std::string> names;
    for (size_t at = 0; (at = text.find(".entry ", at)) != std::string::npos;) {
        at += 7;
        size_t end = text.find_first_of("( \n\t", at);
        names.insert(text.substr(at, end - at));
    }
    size_t best = 0;
    Module* found = nullptr;
    for (auto& library : libraries()) {
        size_t shared = 0;
        for (auto& kernel : library.second) shared += names.count(kernel.first);
        if (shared > best) {
            best = shared;
            delete found;
            found = new Module{&library.second, library.first};
        }
    }
    if (!found) return CUDA_ERROR_NOT_FOUND;
    *module = reinterpret_cast<CUmodule>(found);
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    Module* module = reinterpret_cast<Module*>(handle);
    auto kernel = module->kernels->find(name);
    if (kernel == module->kernels->end()) {
        std::fprintf(stderr, "cuda-on-cpu: %s has no kernel %s\n", module->name.c_str(), name);
        return CUDA_ERROR_NOT_FOUND;
    }
    *out = reinterpret_cast<CUfunction>(new Function{kernel->second, name, with_barriers().count(module->name) > 0});
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream, void** args, void**) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    Function* function = reinterpret_cast<Function*>(handle);
    const uint64_t threads = uint64_t(bx) * by * bz;
    if (!gx || !gy || !gz || !threads || gx > 0x7fffffffu || gy > 65535 || gz > 65535 || threads > 1024 || shared > 49152)
        return CUDA_ERROR_INVALID_VALUE;
    static const bool trace = std::getenv("CUDA_ON_CPU_TRACE"), reverse = std::getenv("CUDA_ON_CPU_REVERSE");
    if (trace) std::fprintf(stderr, "launch %s <<<%u %u %u, %u %u %u>>>\n", function->name.c_str(), gx, gy, gz, bx, by, bz);
    cpu_grid_dim = dim3(gx, gy, gz);
    cpu_block_dim = dim3(bx, by, bz);
    running = function->run;
    running_args = args;
    auto place = [&](unsigned thread) { cpu_thread = uint3{thread % bx, thread / bx % by, unsigned(thread / bx / by)}; };
    if (function->barriers && contexts.size() < threads) {
        contexts.resize(threads);
        stacks.resize(threads * STACK);
    }
    for (unsigned z = 0; z < gz; ++z) for (unsigned y = 0; y < gy; ++y) for (unsigned x = 0; x < gx; ++x) {
        cpu_block = uint3{x, y, z};
        if (!function->barriers) {
            for (unsigned i = 0; i < threads; ++i) { place(reverse ? threads - 1 - i : i); function->run(args); }
            continue;
        }
        states.assign(threads, READY);
        masks.assign(threads, 0);
        for (unsigned i = 0; i < threads; ++i) {
            getcontext(&contexts[i]);
            contexts[i].uc_stack.ss_sp = &stacks[i * STACK];
            contexts[i].uc_stack.ss_size = STACK;
            contexts[i].uc_link = nullptr;
            makecontext(&contexts[i], fibre, 0);
        }
        in_fibre = true;
        for (bool going = true; going;) {
            for (unsigned i = 0; i < threads; ++i) {
                unsigned thread = reverse ? threads - 1 - i : i;
                if (states[thread] != READY) continue;
                place(thread);
                current = thread;
                swapcontext(&scheduler, &contexts[thread]);
            }
            bool released = false;
            for (unsigned warp = 0; warp < threads; warp += 32) {
                unsigned waiting = 0, wanted = 0, lanes = std::min<uint64_t>(32, threads - warp);
                for (unsigned lane = 0; lane < lanes; ++lane)
                    if (states[warp + lane] == AT_WARP) waiting |= 1u << lane, wanted |= masks[warp + lane];
                if (lanes < 32) wanted &= (1u << lanes) - 1;
                if (waiting == 0 || (waiting & wanted) != wanted) continue;
                for (unsigned lane = 0; lane < lanes; ++lane)
                    if (waiting >> lane & 1) states[warp + lane] = READY;
                released = true;
            }
            if (released) continue;
            size_t at_block = std::count(states.begin(), states.end(), AT_BLOCK);
            size_t ended = std::count(states.begin(), states.end(), ENDED);
            // Some wait at a barrier that others never reach: undefined on a device.
            if (at_block != threads && ended != threads) fail(function->name + ": threads of a block disagree about a barrier");
            if (at_block == threads) states.assign(threads, READY);
            going = at_block == threads;
        }
        in_fibre = false;
    }
    return CUDA_SUCCESS;
}

// --- cuBLAS: matrices by columns, as always there ---------------------------------------------------------------
cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) { *handle = reinterpret_cast<cublasHandle_t>(1); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
}

template <typename T>
static void gemm(bool ta, bool tb, int m, int n, int k, T alpha, const T* a, int lda, const T* b, int ldb, T beta, T* c, int ldc) {
    for (int j = 0; j < n; ++j) for (int i = 0; i < m; ++i) {
        double sum = 0;
        for (int l = 0; l < k; ++l)
            sum += double(a[ta ? size_t(i) * lda + l : size_t(l) * lda + i]) * double(b[tb ? size_t(l) * ldb + j : size_t(j) * ldb + l]);
        T& to = c[size_t(j) * ldc + i];
        to = T(double(alpha) * sum + (beta == T(0) ? 0.0 : double(beta) * double(to)));
    }
}

extern "C" {
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
        const void* alpha, const void* a, cudaDataType at, int lda, long long sa, const void* b, cudaDataType, int ldb, long long sb,
        const void* beta, void* c, cudaDataType, int ldc, long long sc, int count, cublasComputeType_t, cublasGemmAlgo_t) {
    if (m <= 0 || n <= 0 || k < 0 || lda < 1 || ldb < 1 || ldc < m) return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < count; ++i) {
        if (at == CUDA_R_32F)
            gemm<float>(ta, tb, m, n, k, *(const float*)alpha, (const float*)a + i * sa, lda, (const float*)b + i * sb, ldb, *(const float*)beta, (float*)c + i * sc, ldc);
        else if (at == CUDA_R_64F)
            gemm<double>(ta, tb, m, n, k, *(const double*)alpha, (const double*)a + i * sa, lda, (const double*)b + i * sb, ldb, *(const double*)beta, (double*)c + i * sc, ldc);
        else
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const float* alpha,
        const float* a, int lda, long long sa, const float* b, int ldb, long long sb, const float* beta, float* c, int ldc, long long sc, int count) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, CUDA_R_32F, lda, sa, b, CUDA_R_32F, ldb, sb, beta, c, CUDA_R_32F, ldc, sc, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const double* alpha,
        const double* a, int lda, long long sa, const double* b, int ldb, long long sb, const double* beta, double* c, int ldc, long long sc, int count) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, CUDA_R_64F, lda, sa, b, CUDA_R_64F, ldb, sb, beta, c, CUDA_R_64F, ldc, sc, count, CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT);
}

// --- cuRAND: created with every device, not used by our operations ----------------------------------------------
curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) { *generator = reinterpret_cast<curandGenerator_t>(1); return CURAND_STATUS_SUCCESS; }
curandStatus_t curandDestroyGenerator(curandGenerator_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }

// --- the run-time library: static kernels of candle register themselves at the start, and are never called --------
void** __cudaRegisterFatBinary(void*) { static void* handle; return &handle; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*, void*, void*, int*) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
}
extern "C" {
cublasStatus_t cublasSgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const float* alpha,
        const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
    return cublasSgemmStridedBatched(h, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const double* alpha,
        const double* a, int lda, const double* b, int ldb, const double* beta, double* c, int ldc) {
    return cublasDgemmStridedBatched(h, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
}
