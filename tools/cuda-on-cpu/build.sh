#!/usr/bin/env bash
# Builds a stand-in for the CUDA libraries that runs kernels on the processor, so that a program built with
# `--features cuda` can be tested where there is no GPU.
#
# usage: build.sh DIR PROGRAM...
#   DIR       gets the libraries; run PROGRAM with LD_LIBRARY_PATH=DIR
#   PROGRAM   programs built with `--features cuda`: what else they import becomes a function that stops
# needs: g++, CUDA_HOME (see ../cuda-toolkit.sh), the sources of candle-kernels in cargo's registry
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
: "${CUDA_HOME:?the folder of a CUDA toolkit}"
include=$CUDA_HOME/include
candle=$(cargo metadata --format-version 1 --manifest-path "$root/Cargo.toml" --features vision-core/cuda |
    python3 -c 'import json,sys,os
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-kernels"))')
flags=(-std=c++17 -O1 -g -fPIC -w -fno-strict-aliasing -I"$include" -I"$include/cccl")

# One object per kernel file: its kernels by name, in a table that the driver looks them up in.
kernels() {
    local name=$1 source=$2 folder=$3 object=$dir/$1.o
    shift 3
    local header newest=$source
    for header in "$here/device.h" "$root"/crates/vision-core/src/cuda/*.cuh; do
        [[ $newest -nt $header ]] || newest=$header
    done
    if [[ $object -nt $newest ]]; then
        return
    fi
    local build=(g++ "${flags[@]}" "$@" -include "$here/device.h" -I"$folder" -x c++)
    # Once to learn the names, once with the table.
    "${build[@]}" -c "$source" -o "$dir/names.o"
    {
        echo "#include \"$source\""
        echo "namespace as_f32 {} namespace as_f64 {} using namespace as_f32; using namespace as_f64;"
        nm --defined-only "$dir/names.o" | awk '$2 == "T" && $3 !~ /^_Z/ { print "CPU_REGISTER(\"'"$name"'\", " $3 ")" }'
        if grep -qE '__syncthreads|__syncwarp|__shfl|__ballot|warp_sum|block_sum|block_max|chunk_sum' "$source"; then
            echo "extern \"C\" void cpu_has_barriers(const char*);"
            echo "static int cpu_barriers = (cpu_has_barriers(\"$name\"), 0);"
        fi
    } >"$dir/$name.cpp"
    "${build[@]}" -c "$dir/$name.cpp" -o "$object.new"
    mv "$object.new" "$object"
}

for file in affine binary cast fill indexing reduce ternary unary; do
    kernels "candle_$file" "$candle/src/$file.cu" "$candle/src" -include "$here/candle.h"
done
while read -r file; do
    kernels "vision_$(basename "$file" .cu)" "$file" "$root/crates/vision-core/src/cuda"
done < <(find "$root/crates/vision-core/src" -name '*.cu' | sort)

for part in driver cudnn; do g++ "${flags[@]}" -c "$here/$part.cpp" -o "$dir/$part.o"; done
# Every object becomes a library of its own: two files may use the same name for different kernels.
libraries=()
g++ -shared -o "$dir/libcuda_on_cpu.so" "$dir/driver.o" "$dir/cudnn.o"
for object in "$dir"/candle_*.o "$dir"/vision_*.o; do
    library=$dir/lib$(basename "$object" .o)_on_cpu.so
    [[ $library -nt $object ]] || g++ -shared -Wl,-Bsymbolic -o "$library" "$object"
    libraries+=("$library")
done

# What the programs import beyond that, as functions that say their name and stop.
nm -D --defined-only "$dir/libcuda_on_cpu.so" | awk '{ print $3 }' | sort -u >"$dir/have.txt"
for program in "$@"; do nm -D --undefined-only "$program"; done | awk '{ sub(/@.*/, "", $2); print $2 }' |
    grep -E '^(cu[A-Z]|cublas|cublasLt|curand|cudnn|cuda|nvrtc|__cuda)' | sort -u >"$dir/want.txt"
{
    echo '#include <cstdio>'
    echo '#include <cstdlib>'
    comm -13 "$dir/have.txt" "$dir/want.txt" |
        awk '{ print "extern \"C\" int " $1 "() { std::fprintf(stderr, \"cuda-on-cpu: " $1 " is not there\\n\"); std::abort(); }" }'
} >"$dir/missing.cpp"
g++ "${flags[@]}" -shared -o "$dir/libmissing_on_cpu.so" "$dir/missing.cpp"

# Under every name that a program may ask for.
for program in "$@"; do objdump -p "$program"; done | awk '$1 == "NEEDED" { print $2 }' |
    grep -E '^lib(cuda|cublas|cublasLt|curand|cudnn|cudart|nvrtc|nccl)[._]' | sort -u | while read -r name; do
    g++ -shared -Wl,--no-as-needed -Wl,-rpath,"$dir" -Wl,-soname,"$name" -o "$dir/$name" \
        "$dir/libcuda_on_cpu.so" "$dir/libmissing_on_cpu.so" "${libraries[@]}"
done
echo "run with LD_LIBRARY_PATH=$dir"
