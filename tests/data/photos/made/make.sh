#!/bin/sh
# Makes the photos of this folder anew, with other tools than the runtime's: ImageMagick, ExifTool, libjpeg-turbo's
# programs. On Debian: apt-get install imagemagick libimage-exiftool-perl libjpeg-turbo-progs icc-profiles-free colord-data
# What each should give stands in index.tsv. Run it here, with a Python that has numpy and Pillow as PYTHON.
set -eu
cd "$(dirname "$0")"
convert=/usr/bin/convert
python=${PYTHON:-python3}
free=/usr/share/color/icc colord=/usr/share/color/icc/colord
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
$convert ../base.png -resize 160x120 -strip +set date:create +set date:modify "$work/plain.png"
$python chunks.py png "$work/plain.png" plain.png
$convert plain.png "$work/plain.ppm"
fine="-sampling-factor 1x1 -quality 95"
keep="-define png:exclude-chunks=date,tIME,tEXt,gAMA,cHRM,bKGD"

# Colour.
srgb=$free/sRGB.icc
for space in AdobeRGB1998 ProPhotoRGB AppleRGB SwappedRedAndGreen WideGamutRGB; do
    $convert plain.png -depth 16 -profile $srgb -profile $colord/$space.icc -depth 8 $keep "icc_$space.png"
done
$convert plain.png -profile $srgb -profile $colord/AdobeRGB1998.icc $fine icc_adobe.jpg
$convert plain.png -profile $srgb -profile $free/LStar-RGB.icc -define webp:lossless=true icc_lstar.webp
$convert plain.png -colorspace Gray -strip $keep gray.png
$convert gray.png -profile $free/Gray.icc $keep icc_gray.png
$convert gray.png -profile $free/Gray.icc $fine icc_gray.jpg
$convert plain.png -profile $srgb $keep icc_srgb.png
$convert plain.png -profile $colord/sRGB.icc $fine icc_srgb_colord.jpg
$convert plain.png -strip $fine untagged.jpg
$python chunks.py rotated plain.png icc_table.png icc_table.jpg
$python chunks.py inks plain.png icc_table_cmyk.jpg
$convert plain.png -define png:include-chunks=gAMA,cHRM gama_imagemagick.png
$convert icc_AdobeRGB1998.png +profile icc "$work/adobe.png"
$python chunks.py png "$work/adobe.png" gama_chrm_adobe.png gAMA=0000b18f \
    cHRM=00007a26000080840000fa00000080e8000052080001155c00003a9800001770
$convert plain.png -gamma 0.5 "$work/dark.png"
$python chunks.py png "$work/dark.png" gama_square.png gAMA=0001631d
$python chunks.py png "$work/adobe.png" srgb_before_gama.png sRGB=00 gAMA=000186a0
$python chunks.py png plain.png cicp_srgb.png cICP=010d0001
$convert plain.png -depth 16 -set colorspace sRGB -colorspace RGB -depth 8 "$work/linear.png"
$python chunks.py png "$work/linear.png" cicp_linear.png cICP=01080001
$python chunks.py png plain.png cicp_bt2020.png cICP=090d0001
$python chunks.py png plain.png cicp_pq.png cICP=09100001
$python chunks.py png plain.png cicp_hlg.png cICP=09120001
$python chunks.py png plain.png cicp_narrow.png cICP=010d0000
$python chunks.py png plain.png iccp_broken.png iCCP=6100000102030405

# Transparency.
$convert plain.png -alpha set -channel A -evaluate set 40% +channel $keep alpha_40.png
$convert plain.png -alpha set -channel A -evaluate set 0 +channel $keep alpha_none.png
$convert plain.png -pointsize 40 -gravity center -fill black -annotate 0 "NAME" -alpha set \
    -region 160x60+0+30 -channel A -evaluate set 0 +channel +region $keep alpha_name.png
$convert alpha_name.png -define webp:lossless=true -define webp:exact=true alpha_name.webp
$convert icc_AdobeRGB1998.png -alpha set -channel A -evaluate set 60% +channel $keep alpha_icc.png
$convert gray.png -alpha set -channel A -evaluate set 50% +channel $keep alpha_gray.png
$convert plain.png -colors 32 -fuzz 8% -transparent "#e8b8a0" $keep PNG8:alpha_palette.png

# JPEG as other encoders write it: all are whole.
cjpeg -quality 95 -sample 1x1 -outfile ok_baseline.jpg "$work/plain.ppm"
cjpeg -quality 95 -sample 1x1 -progressive -outfile ok_progressive.jpg "$work/plain.ppm"
cjpeg -quality 95 -sample 1x1 -restart 1 -outfile ok_restart.jpg "$work/plain.ppm"
cjpeg -quality 95 -sample 1x1 -optimize -outfile ok_optimized.jpg "$work/plain.ppm"
cjpeg -quality 95 -rgb -outfile ok_rgb.jpg "$work/plain.ppm"
cjpeg -quality 95 -grayscale -outfile ok_gray.jpg "$work/plain.ppm"
cjpeg -quality 95 -sample 2x2 -outfile ok_420.jpg "$work/plain.ppm"
cjpeg -quality 95 -sample 3x1,1x1,1x1 -outfile ok_310.jpg "$work/plain.ppm"
cjpeg -quality 95 -sample 2x1 -progressive -restart 2 -outfile ok_422_progressive_restart.jpg "$work/plain.ppm"
jpegtran -copy none -crop 101x67+8+16 -outfile ok_odd_size.jpg ok_420.jpg
wrjpgcom -comment "a comment" ok_baseline.jpg > ok_comment.jpg
$convert plain.png -colorspace CMYK $fine ok_cmyk.jpg
$convert plain.png -interlace JPEG -sampling-factor 4x1 -quality 95 ok_411.jpg
for what in padded followed garbage fill; do $python chunks.py damage ok_baseline.jpg ok_$what.jpg $what; done

# JPEG with damage, or of a rare kind.
for what in cut hole zeroed doubled; do
    for kind in baseline progressive restart; do
        $python chunks.py damage ok_$kind.jpg bad_${kind}_$what.jpg $what
    done
done
$python chunks.py damage ok_baseline.jpg bad_baseline_end.jpg end
$python chunks.py damage ok_progressive.jpg bad_progressive_end.jpg end
$python chunks.py damage ok_baseline.jpg rare_twelve_bits.jpg twelve
cjpeg -quality 95 -sample 1x1 -arithmetic -outfile rare_arithmetic.jpg "$work/plain.ppm"

# Metadata.
turn() { # SOURCE TARGET ORIENTATION OPTIONS...
    cp "$1" "$2"
    source=$2 number=$3
    shift 3
    exiftool -q -overwrite_original -n -Orientation="$number" "$@" "$source"
}
$convert plain.png -rotate -90 -strip "$work/left.png"
$python chunks.py png "$work/left.png" "$work/left_plain.png"
$convert "$work/left.png" "$work/left.ppm"
cjpeg -quality 95 -sample 1x1 -outfile "$work/left.jpg" "$work/left.ppm"
turn "$work/left.jpg" exif_6.jpg 6
turn "$work/left.jpg" exif_6_little_endian.jpg 6 -ExifByteOrder=II
turn "$work/left.jpg" exif_6_full.jpg 6 -Make=A -Model=B -XResolution=72 -GPSLatitude=1 -GPSLatitudeRef=N -Comment=c \
    "-ThumbnailImage<=ok_gray.jpg" -XMP-tiff:Orientation=3 -UserComment=u
turn "$work/left_plain.png" exif_6.png 6
$convert "$work/left.png" -define webp:lossless=true "$work/left.webp"
turn "$work/left.webp" exif_6.webp 6
turn ok_baseline.jpg exif_9.jpg 9
cp ok_baseline.jpg xmp_6.jpg
exiftool -q -overwrite_original -n -XMP-tiff:Orientation=6 xmp_6.jpg

# Other kinds of files.
for kind in tif gif bmp jp2 psd ico heic avif; do
    $convert plain.png -resize 32x24 "$work/kind.$kind"
    cp "$work/kind.$kind" kind_$kind.jpg
done
$convert -size 32x24 xc:red xc:blue -loop 0 animated.webp
$convert plain.png -depth 16 -define png:bit-depth=16 -resize 32x24 $keep bits_16.png

# Quality.
$convert plain.png -resize 24x18 $keep small.png
$convert plain.png -blur 0x6 $keep blurred.png
$convert plain.png -evaluate multiply 0.12 $keep dark.png
$convert plain.png -evaluate multiply 2.5 $keep bright.png
$convert plain.png -crop 160x20+0+40 +repage $keep thin.png
