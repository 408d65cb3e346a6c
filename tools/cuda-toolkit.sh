#!/usr/bin/env bash
# Brings a CUDA toolkit from Python wheels to a machine that has none, so that `--features cuda` compiles and links.
# A GPU and its driver are only needed where the program runs.
#
# usage: source <(tools/cuda-toolkit.sh DIR)     fills DIR once (about 2.4 GB), prints what to export
#        cargo build --features cuda             with RUSTFLAGS="$CUDA_RUSTFLAGS", if no driver is installed here
#
# CUDA_COMPUTE_CAP chooses the GPU generation that is compiled for: 80 for A100, 89 for L4, 90 (default) for H100.
set -euo pipefail
dir=${1:?usage: cuda-toolkit.sh DIR}
dir=$(mkdir -p "$dir" && cd "$dir" && pwd)
home=$dir/cuda

fill() {
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" --quiet install \
        nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 'nvidia-cuda-runtime==13.0.*' \
        'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas>=13.0,<13.2' 'nvidia-curand==10.4.*' \
        nvidia-cudnn-cu13 nvidia-nccl-cu13
    local packages name
    packages=$(echo "$dir"/venv/lib/python3*/site-packages/nvidia)
    rm -rf "$home"
    mkdir -p "$home.new"
    for part in cu13 cudnn nccl; do
        [[ ! -d $packages/$part ]] || cp -rs "$packages/$part"/* "$home.new"/
    done
    # Compilers look for lib64, linkers for names without a version.
    ln -s lib "$home.new/lib64"
    for library in "$home.new"/lib/lib*.so.*; do
        name=$(basename "$library")
        ln -sf "$name" "$home.new/lib/${name%%.so.*}.so"
    done
    # Only the driver has the real one; linking needs the name.
    mkdir -p "$home.new/lib/stubs"
    echo | ${CC:-cc} -shared -x c -Wl,-soname,libcuda.so.1 -o "$home.new/lib/stubs/libcuda.so" -
    mv "$home.new" "$home"
}

[[ -x $home/bin/nvcc ]] || fill >&2
cat <<ENVIRONMENT
export CUDA_HOME=$home CUDA_PATH=$home CUDA_ROOT=$home CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
export PATH=$home/bin:\$PATH
export CUDA_RUSTFLAGS="-L native=$home/lib -L native=$home/lib/stubs -C link-arg=-Wl,--unresolved-symbols=ignore-all"
ENVIRONMENT
