"""The looks of the fleet's page: for a wall screen from three metres, and for a phone; light and dark."""

from __future__ import annotations

__all__ = ["CSS", "ICONS", "SCRIPT"]

# A status is a colour, a shape and a word: any one of them is enough.
ICONS = {
    "ok": '<circle cx="12" cy="12" r="11"/><path class="m" d="m6.5 12.5 3.7 3.7 7.3-8"/>',
    "warning": '<path d="M12 1.2 23.4 22H.6z"/><path class="m" d="M12 8.6v6.2M12 18v.9"/>',
    "critical": '<path d="M7.4 1h9.2L23 7.4v9.2L16.6 23H7.4L1 16.6V7.4z"/>'
    '<path class="m" d="m7.9 7.9 8.2 8.2m0-8.2-8.2 8.2"/>',
    "unknown": '<rect x="1.2" y="1.2" width="21.6" height="21.6" rx="3.5"/>'
    '<path class="m" d="M8.5 9.1a3.5 3.5 0 1 1 5.3 3c-1.3.8-1.8 1.4-1.8 2.6M12 18.2v.2"/>',
    "busy": '<circle cx="12" cy="12" r="11"/><path class="m f" d="M9.4 7.2v9.6l7.6-4.8z"/>',
    "hold": '<circle cx="12" cy="12" r="11"/><path class="m" d="M9.2 7.7v8.6m5.6-8.6v8.6"/>',
}

# It only tells the age of the page, and when nothing newer came; without it the time of day stands there.
SCRIPT = """(function(){
var t=document.getElementById("made"),a=document.getElementById("age"),s=document.getElementById("stale");
var made=Date.parse(t.dateTime),most=1000*Number(t.dataset.most);
function words(ms){var n=Math.max(0,Math.round(ms/1000));
if(n<90)return n+" s";if(n<5400)return Math.round(n/60)+" min";
if(n<129600)return Math.round(n/3600)+" h";return Math.round(n/86400)+" days"}
function show(){var d=Date.now()-made;a.textContent=", "+words(d)+" ago";
if(d>most){s.hidden=false;document.getElementById("since").textContent=words(d);
document.documentElement.classList.add("old")}}
show();setInterval(show,1000)})()"""

CSS = """
:root{color-scheme:light dark;--bg:#eef1f5;--card:#fff;--text:#10151d;--soft:#4a5566;--line:#d3dae4;
--ok:#0a6a3b;--ok-t:#e2f4ea;--warning:#7d4a00;--warning-t:#fff1d6;--critical:#b1121f;--critical-t:#fde6e6;
--unknown:#5a3aa8;--unknown-t:#ece6fb;--busy:#0a559c;--busy-t:#e1effc;--chip:#e9edf3}
@media(prefers-color-scheme:dark){:root{--bg:#0a0d12;--card:#141922;--text:#f2f5f9;--soft:#a9b4c4;
--line:#2a3240;
--ok:#54d893;--ok-t:#0f2a1d;--warning:#ffc04d;--warning-t:#33260c;--critical:#ff8585;--critical-t:#3a1519;
--unknown:#bfabff;--unknown-t:#261d43;--busy:#86c5ff;--busy-t:#10273d;--chip:#222a36}}
*{box-sizing:border-box}
html{font-size:clamp(16px,.62vw + 10px,34px);-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--text);line-height:1.35;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
svg{width:1em;height:1em;flex:none;fill:currentColor;vertical-align:-.12em}
svg .m{fill:none;stroke:var(--mark,var(--card));stroke-width:2.7;stroke-linecap:round;stroke-linejoin:round}
svg .m.f{fill:var(--mark,var(--card));stroke:none}
h1,h2,p,ul,dl,dd{margin:0;padding:0}ul{list-style:none}
a{color:inherit}
.skip{position:absolute;left:-999rem}.skip:focus{left:0;top:0;background:var(--card);padding:.5rem 1rem;
z-index:1}
header,main,footer{max-width:120rem;margin:0 auto;padding:0 1.1rem}
header{padding-top:1rem}
.verdict{display:flex;align-items:center;gap:.6rem 1.3rem;border-radius:.7rem;padding:.7rem 1.3rem;
background:var(--solid);color:var(--on);--mark:var(--solid)}
.verdict.ok{--solid:#0a6a3b;--on:#fff}.verdict.warning{--solid:#ffbe3d;--on:#1d1400}
.verdict.critical{--solid:#b1121f;--on:#fff}.verdict.unknown{--solid:#5a3aa8;--on:#fff}
.verdict>svg{font-size:4.3rem}
.verdict h1{font-size:2.9rem;line-height:1.1;font-weight:750;letter-spacing:-.015em}
.verdict p{font-size:1.12rem;font-weight:500}
.verdict p b{font-weight:800;letter-spacing:.03em}
.made{margin-left:auto;text-align:right;flex:none}
.made strong{display:block;font-size:1.9rem;line-height:1.15;font-weight:700}
.bar{display:flex;gap:.25rem;height:.55rem;margin-top:.6rem}
.bar i{background:var(--tone);border-radius:.3rem;min-width:.55rem}
#stale{margin-top:.7rem;border-radius:.7rem;padding:.7rem 1.3rem;background:var(--text);color:var(--bg);
font-size:1.35rem;font-weight:700}
.old .verdict,.old .bar,.old .counts,.old main{filter:grayscale(1)}
.counts{display:grid;grid-template-columns:repeat(4,1fr);gap:.6rem;margin:.6rem 0}
.counts>div{background:var(--card);border-radius:.7rem;padding:.3rem 1rem;border:1px solid var(--line);
display:flex;flex-direction:row-reverse;justify-content:flex-end;align-items:center;gap:.7rem}
.counts dt{color:var(--soft);font-size:1.05rem;font-weight:550}
.counts dd{font-size:2.1rem;font-weight:750;line-height:1.2;display:flex;align-items:center;gap:.5rem;
color:var(--tone,var(--text))}
.counts dd svg{font-size:.72em}
.counts .zero dd{color:var(--soft);font-weight:500}
.note{background:var(--card);border:1px solid var(--line);border-left:.4rem solid var(--soft);
border-radius:.5rem;
padding:.5rem .9rem;margin:.7rem 0}
section{margin:0 0 1rem}
h2{font-size:1.15rem;font-weight:700;margin:.8rem 0 .4rem;display:flex;align-items:center;gap:.6rem}
h2 small{font-size:1em;font-weight:500;color:var(--soft)}
table{width:100%;border-collapse:separate;border-spacing:0;background:var(--card);
border:1px solid var(--line);
border-radius:.7rem;overflow:hidden}
th,td{text-align:left;vertical-align:top;padding:.42rem .9rem;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-size:.9rem;font-weight:600;padding:.4rem .9rem}
tbody th{font-weight:700;font-size:1.2rem;box-shadow:inset .38rem 0 var(--tone);padding-left:1.3rem}
tbody td{font-size:1.08rem}
.able{white-space:nowrap}
.able span{display:inline-flex;align-items:center;gap:.45rem;font-weight:750;font-size:1.2rem;
color:var(--tone)}
.why{font-weight:600}
.why small,.do small{display:block;color:var(--soft);font-weight:450;font-size:.92rem;margin-top:.15rem}
code{font:600 .94em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
background:var(--chip);
border-radius:.25rem;padding:.05em .35em;display:inline-block;max-width:100%}
.slots{display:inline-flex;flex-wrap:wrap;gap:.3rem;vertical-align:middle}
.slots span{background:var(--chip);border-radius:.35rem;padding:.02rem .5rem;font-size:.95rem;
font-weight:600}
.ok{--tone:var(--ok)}.warning{--tone:var(--warning)}.critical{--tone:var(--critical)}
.unknown{--tone:var(--unknown)}.busy{--tone:var(--busy)}
.ready{display:grid;grid-template-columns:repeat(auto-fill,minmax(18.2rem,1fr));gap:.3rem .5rem}
.ready>li{background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:.16rem .3rem .16rem .6rem;
display:flex;flex-wrap:wrap;align-items:center;justify-content:space-between;gap:.2rem .6rem}
.ready h3{margin:0;font-size:1rem;font-weight:650;line-height:1.3}
.ready ul{display:flex;flex-wrap:wrap;gap:.25rem}
.ready li li{display:inline-flex;align-items:center;gap:.3rem;color:var(--tone);background:var(--tint);
--mark:var(--tint);border-radius:.35rem;padding:.02rem .42rem;font-size:.98rem;font-weight:650}
.ready .ok{--tint:var(--ok-t)}.ready .busy{--tint:var(--busy-t)}
em{font-style:normal;font-weight:500}
.many .ready em{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.many .ready li li{position:relative;padding:.02rem .34rem;gap:.22rem}
.many .ready>li{padding:.1rem .3rem .1rem .6rem}
.key{display:inline-flex;align-items:center;gap:.3rem;font-size:1rem;font-weight:550;color:var(--tone)}
.few .key{display:none}
.few .ready{grid-template-columns:repeat(auto-fill,minmax(26rem,1fr));gap:.7rem}
.few .ready>li{padding:.6rem 1rem}.few .ready h3{font-size:1.4rem}
.few .ready li li{font-size:1.2rem;padding:.12rem .6rem}
.few tbody th{font-size:1.45rem}.few .able span{font-size:1.45rem}.few tbody td{font-size:1.22rem}
.few th,.few td{padding-top:.8rem;padding-bottom:.8rem}.few thead th{padding-top:.4rem;padding-bottom:.4rem}
footer{color:var(--soft);font-size:.9rem;padding-bottom:1.2rem}
@media(min-width:761px){tbody th{width:22%}.able{width:11%}.why{width:36%}}
@media(max-width:1100px){.verdict{flex-wrap:wrap}.verdict>div:first-of-type{flex:1;min-width:13rem}
.verdict h1{font-size:2rem}.verdict>svg{font-size:3.2rem}}
@media(max-width:760px){
header,main,footer{padding-left:.75rem;padding-right:.75rem}
.verdict{padding:.8rem 1rem;align-items:flex-start}.verdict>svg{font-size:2.5rem}
.verdict h1{font-size:1.75rem}.verdict p{font-size:1rem;margin-top:.2rem}
.made{margin:0;text-align:left;width:100%;border-top:1px solid;padding-top:.3rem}
.made strong{display:inline;font-size:1rem}.made p{display:inline}.made strong,.made p{margin-right:.6rem}
#stale{font-size:1.1rem}
.counts{grid-template-columns:1fr 1fr;gap:.5rem;margin:.5rem 0}.counts dd{font-size:1.5rem}
.counts>div{padding:.3rem .7rem;gap:.5rem}.counts dt{font-size:.95rem;line-height:1.15}
table,thead,tbody,tr,th,td{display:block}
table{background:none;border:0;border-radius:0}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tbody tr{background:var(--card);border:1px solid var(--line);border-left:.4rem solid var(--tone);
border-radius:.6rem;margin-bottom:.6rem;padding:.55rem .8rem}
tbody tr th,tbody tr td,.few tbody tr th,.few tbody tr td{border:0;padding:.1rem 0;width:auto;box-shadow:none;
white-space:normal}
tbody tr td.why,tbody tr td.do{margin-top:.3rem;font-size:1.02rem}
td.why::before,td.do::before{content:attr(data-label);display:block;color:var(--soft);font-size:.875rem;
font-weight:500}
.few tbody th,.few .able span,tbody th,.able span{font-size:1.25rem}
.ready,.few .ready{grid-template-columns:1fr}.ready>li,.few .ready>li{padding:.4rem .6rem}
.few .ready h3{font-size:1.1rem}.few .ready li li{font-size:1rem}
}
@media print{:root{color-scheme:light}.verdict{border:2px solid}}
"""
