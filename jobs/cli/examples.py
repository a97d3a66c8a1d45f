"""Examples in the help of each command, to be pasted."""

from __future__ import annotations

Example = tuple[str, str]

# Command -> its examples, the most common first: a message about a missing word shows that one.
EXAMPLES: dict[str, list[Example]] = {
    "isnet": [
        ("try everything on this machine, in a few minutes", "isnet demo"),
        ("train on your own photos", "isnet data pack ~/Pictures mine && isnet train demo data.train=mine"),
        ("list all presets; show all settings of one", "isnet config show; isnet config show demo"),
        ("read about a command", "isnet help train"),
    ],
    "isnet demo": [
        ("use photos of yours", "isnet demo --photos ~/Pictures"),
        ("train longer, for a better picture", "isnet demo --steps 2000"),
    ],
    "isnet data pack": [
        ("pack a folder of photos under a name", "isnet data pack ~/Pictures mine"),
        ("keep a part for validation", "isnet data pack ~/Pictures held --shares train=95,val=5 --split val"),
        ("pack Places2 into a bucket", "isnet data pack /data/places365 s3://bucket/places2-train --layout places2"),
        ("pack masks, white = hole", "isnet data pack masks/ holes --kind masks"),
        ("pack what people disliked of a served model", "isnet data pack traces:isnet-demo bad --verdict bad"),
    ],
    "isnet data verify": [
        ("check every byte", "isnet data verify mine"),
        ("repair it from a copy", "isnet data verify mine --repair s3://bucket/mine"),
    ],
    "isnet data show": [("see samples, shards and digest", "isnet data show mine")],
    "isnet config certificate": [
        ("make what signs filled pictures", "isnet config certificate signing --organisation Example")
    ],
    "isnet config show": [
        ("list presets and layers", "isnet config show"),
        ("show all settings of a run, as it would be trained", "isnet config show places2+laptop train.steps=200"),
    ],
    "isnet train": [
        ("train the small network on photos of installed packages", "isnet train demo"),
        ("train it longer, on a dataset of yours", "isnet train demo data.train=mine data.val=held train.steps=2000"),
        ("train the paper's network, shrunk to what two cores do in minutes", "isnet train places2+laptop"),
        ("train what a file of yours says, see docs/settings.md", "isnet train mine.yaml train.seed=3"),
    ],
    "isnet plan train": [
        ("see what a run needs and how long it takes", "isnet plan train places2+laptop --measure"),
    ],
    "isnet plan tune": [("see what a search needs", "isnet plan tune search_demo")],
    "isnet tune": [
        ("search with four short trials", "isnet tune search_demo"),
        ("shrink any search to what two cores do in minutes", "isnet tune search_blocks+laptop train.steps=30"),
        ("see its trials, while it runs or later", "isnet tune show search_demo"),
        ("list the searches that were started", "isnet tune list"),
    ],
    "isnet evaluate": [
        ("compare a model with classical methods", "isnet evaluate isnet-demo classical:telea classical:mean demo-val"),
        ("measure a checkpoint on masks of yours", "isnet evaluate runs:/ID held --masks holes"),
    ],
    "isnet inpaint": [
        ("fill the white part of a mask", "isnet inpaint photo.jpg mask.png -o filled.png"),
        ("fill a folder by a classical method", "isnet inpaint photos/ masks/ -o filled/ --model classical:telea"),
        ("read how a file says it was made", "isnet inpaint --check filled.png"),
    ],
    "isnet models register": [
        ("make a run's newest checkpoint a version", "isnet models register runs:/ID --name isnet-demo"),
        ("make the best trial of a search one", "isnet models register --from-search search_demo --name isnet-demo"),
    ],
    "isnet models show": [("see versions, verdicts and aliases", "isnet models show isnet-demo")],
    "isnet models promote": [
        ("put a version into production, past its gates", "isnet models promote isnet-demo 2 --dataset demo-val"),
    ],
    "isnet models share": [
        ("let a candidate answer a tenth of the requests", "isnet models share isnet-demo 2 10%"),
        ("take them back", "isnet models share isnet-demo 2 off"),
    ],
    "isnet serve": [
        ("open a page over the model in production", "isnet serve isnet-demo"),
        ("compare another version with it, blind", "isnet serve isnet-demo --candidate 2"),
        ("let it answer a tenth of the requests", "isnet serve isnet-demo --candidate 2 --canary 10%"),
    ],
    "isnet models sign": [("vouch for version 2", "isnet models sign isnet-demo 2 --key key.pem")],
    "isnet models verify": [
        ("check who signed what is in production", "isnet models verify isnet-demo@production --key public.pem")
    ],
    "isnet models export": [
        ("as a file for other programs", "isnet models export isnet-demo@production --to onnx -o demo.onnx"),
        ("as a page for a browser", "isnet models export starter --to page --runtime onnxruntime-web-1.30.0.tgz"),
    ],
    "isnet models golden": [("keep what people marked as datasets", "isnet models golden isnet-demo --from-traces")],
    "isnet models rollback": [("return to the version before", "isnet models rollback isnet-demo")],
    "isnet runs list": [
        ("see the newest runs", "isnet runs list"),
        ("the best with four blocks", "isnet runs list --where 'val/psnr > 24 and model.blocks = 4' --sort val/psnr"),
    ],
    "isnet runs show": [("see settings and metrics of one", "isnet runs show ID")],
    "isnet runs compare": [
        ("see what differs between two runs", "isnet runs compare ID ID"),
        ("as a page with charts and pictures", "isnet runs compare ID ID --html both.html"),
    ],
    "isnet runs export": [("write the curves for a spreadsheet", "isnet runs export ID -o curves.csv")],
    "isnet runs branch": [
        ("go on from step 400 of a run with half the rate", "isnet runs branch ID --step 400 train.lr_g=5e-5")
    ],
    "isnet runs reproduce": [("write how to run it again", "isnet runs reproduce ID -o again/")],
    "isnet ui": [("serve MLflow's pages on another port", "isnet ui --port 5001")],
    "isnet submit": [
        ("train on the cluster of a context", "isnet submit --context stack train demo"),
        ("leave it running", "isnet submit --context stack --no-follow tune search_demo"),
    ],
    "isnet jobs logs": [("see what a job printed", "isnet jobs logs JOB --context stack")],
    "isnet jobs stop": [("end a training, which saves first", "isnet jobs stop JOB --context stack")],
    "isnet queue list": [("see who runs, who waits, and what for", "isnet queue list --context lab")],
    "isnet queue quota": [("let each user have four GPUs at once", "isnet queue quota --gpus 4 --context lab")],
    "isnet schedule add": [
        ("measure a model every night", "isnet schedule add nightly '0 3 * * *' evaluate m@production val"),
    ],
    "isnet notify test": [("see whether the targets of a context take events", "isnet notify test --context lab")],
    "isnet notify send": [("send what waits, for cron", "isnet notify send --context lab")],
    "isnet gc": [
        ("see what nothing has needed for 30 days", "isnet gc"),
        ("remove what the plan names", "isnet gc --older-than 90 --yes"),
    ],
    "isnet doctor": [("check the store, MLflow and Ray of a context", "isnet doctor --context stack")],
    "isnet stack up": [
        ("start PostgreSQL, an S3 store, MLflow and Ray here", "isnet stack up"),
        ("then train on it", "isnet submit --context stack train demo"),
    ],
    "isnet stack down": [("stop it and delete its data", "isnet stack down --wipe")],
    "isnet bench step": [("time our training step against the released code's", "isnet bench step --sizes 64")],
    "isnet completion": [
        ("complete in this bash; in .bashrc: in every one", 'eval "$(isnet completion bash)"'),
        ("complete in this zsh; in .zshrc: in every one", 'eval "$(isnet completion zsh)"'),
        ("complete in this tcsh", "isnet completion tcsh > ~/.isnet.tcsh && source ~/.isnet.tcsh"),
    ],
}


def examples_text(examples: list[Example]) -> str:
    """Text of the help's last part; empty without examples."""
    lines = [f"  {meaning}\n    {line}" for meaning, line in examples]
    return "\n".join(["examples:", *lines]) if lines else ""
