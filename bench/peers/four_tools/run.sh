# The four-tool pipeline: which layers, the cut, the healing, the questions.
set -e
model=$1 n=$2 layers=$3 tokens=$4
start=$(python similarity.py $model texts.jsonl $n | tee similarity.txt | sed -n 's/^best //p')
sed "s|MODEL|$model|; s/START/$start/; s/END/$((start + n))/; s/LAYERS/$layers/" merge.yaml > cut.yaml
mergekit-yaml cut.yaml cut
python heal.py cut texts.jsonl healed --tokens $tokens
for one in $model cut healed; do
  python -m lm_eval run --model hf --model_args pretrained=$one,dtype=float32 --include_path tasks \
    --tasks medical,math,commonsense,prose --batch_size 16 --device cpu --output_path results --log_samples
done
