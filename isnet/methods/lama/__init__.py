"""LaMa, inpainting by Fourier convolutions (Suvorov et al., WACV 2022)."""
